"""Alternating directions: weights that fit and weights with the pattern, drawn together; then solved on the pattern."""

import torch
from torch import Tensor

from graphprune.pruning.sparsity.problem import Problem
from graphprune.pruning.sparsity.support import solve_on_support
from graphprune.weights.patterns import Pattern

# Chosen on stories3M's layers, of what one matrix product a turn may cost (docs/methods/sparsity.md).
_PENALTIES, _TURNS, _SOLVED = (0.5, 1.0, 2.0, 4.0, 8.0), 8, 20


def alternate(problem: Problem, pattern: Pattern) -> Tensor:
    """The weight with a pattern by alternating directions of multipliers, with a penalty that rises.

    Inputs have energy 1, so that magnitudes compare. In turns: W of least E|W x - y|² + p |W - Z + U|², Z what a
    pattern keeps of W + U, U what they differ by, summed up. The last pattern is kept, and its weights are those of
    least squares, by conjugate gradients. Sources: Boyd et al. 2011, section 9.1; for weights of language models Boža,
    arXiv 2401.02938, and ALPS, arXiv 2406.07831, whose penalty rises too.
    """
    even, scale = problem.scaled()
    weight, gap = even.best, torch.zeros_like(even.best)
    before = _PENALTIES[0]
    for penalty in _PENALTIES:
        gap, before = gap * (before / penalty), penalty
        inverse = damped_inverse(even.gram, penalty)
        fixed = even.cross @ inverse
        for _ in range(_TURNS):
            wish = weight + gap
            near = wish * pattern.keep(wish.abs())
            gap = wish - near
            weight = fixed + penalty * ((near - gap) @ inverse)
    wish = weight + gap
    kept = pattern.keep(wish.abs())
    found = solve_on_support(even.gram, even.cross, kept, wish, _SOLVED)
    return torch.where(scale > 0, found / scale.clamp(min=1e-30), 0.0)


def damped_inverse(gram: Tensor, penalty: float) -> Tensor:
    """The inverse of gram + penalty, in the type of gram."""
    wide = gram.double().clone()
    wide.diagonal().add_(penalty)
    return torch.cholesky_inverse(torch.linalg.cholesky(wide)).to(gram)
