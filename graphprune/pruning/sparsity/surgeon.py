"""SparseGPT: inputs are gone through in order; what goes is made up for by the weights of those that still come."""

import torch
from torch import Tensor

from graphprune.pruning.sparsity.problem import Problem
from graphprune.weights.patterns import Grouped, Pattern, Share, keep_largest

_BLOCK, _DAMPING = 128, 0.01  # inputs that are decided on together; of the mean energy of inputs


def sparse_gpt(problem: Problem, pattern: Pattern, block: int = _BLOCK, damping: float = _DAMPING) -> Tensor:
    """The weight with a pattern by the algorithm of SparseGPT (arXiv 2301.00774), as its code has it.

    With U upper triangular, UᵀU the inverse of the damped moments: of a block of inputs, or of a group of the pattern,
    those entries go that have the least w² / U_jj², and w_j / U_jj times row j of U is taken from the inputs behind.
    Aims at what the weight gives on what the call reads, whatever the problem's cross moments.
    """
    weight, upper = problem.weight.clone(), factor_of_inverse(problem.gram, damping).to(problem.weight)
    weight[:, ~problem.live] = 0
    inputs, gone = weight.shape[1], 0
    block = block if isinstance(pattern, Share) else max(1, block // pattern.size) * pattern.size
    for start in range(0, inputs, block):
        end = min(start + block, inputs)
        part, factor = weight[:, start:end].clone(), upper[start:end, start:end]
        kept = None
        if isinstance(pattern, Share):
            many = round(pattern.zeros * end * len(weight)) - gone
            kept, gone = keep_in_block(part, factor, pattern, many), gone + many
        errors = leave_out(part, factor, pattern, kept)
        weight[:, start:end] = part
        weight[:, end:] -= errors @ upper[start:end, end:]
    return weight


def keep_in_block(part: Tensor, factor: Tensor, pattern: Share, gone: int) -> Tensor:
    """Which entries of a block stay, so that so many go of all, or of each row its share."""
    scores = part.square() / factor.diagonal().square()
    if pattern.per == "row":
        return pattern.keep(scores)
    return keep_largest(scores.reshape(1, -1), scores.numel() - gone).view_as(scores)


def leave_out(part: Tensor, factor: Tensor, pattern: Pattern, kept: Tensor | None) -> Tensor:
    """Go through a block in place: the errors of its entries, over U_jj."""
    errors = torch.zeros_like(part)
    for place in range(part.shape[1]):
        if isinstance(pattern, Grouped) and place % pattern.size == 0:
            group = slice(place, place + pattern.size)
            mine = pattern.keep(part[:, group].square() / factor.diagonal()[group].square())
        stays = mine[:, place % pattern.size] if isinstance(pattern, Grouped) else kept[:, place]  # type: ignore[index]
        column = part[:, place]
        error = torch.where(stays, 0.0, column / factor[place, place])
        part[:, place:] -= torch.outer(error, factor[place, place:])
        part[:, place] = torch.where(stays, column, 0.0)
        errors[:, place] = error
    return errors


def factor_of_inverse(gram: Tensor, damping: float) -> Tensor:
    """The upper triangular U with UᵀU the inverse of the damped moments, in float64; inputs without energy have 1."""
    wide = gram.double().clone()
    dead = wide.diagonal() <= 0
    wide.diagonal()[dead] = 1.0
    wide.diagonal().add_(damping * wide.diagonal().mean())
    lower = torch.linalg.cholesky(wide)
    return torch.as_tensor(torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True))
