"""FISTAPruner: a convex problem with an l1 term solved by accelerated steps, rounded, and its weight searched for."""

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from graphprune.pruning.sparsity.problem import Problem
from graphprune.weights.patterns import Pattern

_STILL = 1e-6  # a step that changes less is the last
_REACH = 1e-7  # of the largest moment: the least l1 term of the search in logarithms
_POWERS = 50

Search = Literal["log", "paper"]


@final
@dataclass(frozen=True)
class Fista:
    """Options of FISTAPruner (arXiv 2408.03728): K steps a round, at most T rounds that are no better.

    `xi` is the share of the error that rounding may make; below it the l1 term falls, above it it rises: halfway in
    logarithms, from 1e-7 to 1 of the largest moment, or with `paper` as printed, from 0 to 1e6, beginning at 1e-5.
    A round that lowers the error by less than `eps` of it is the last, and so is the one of number `rounds`.
    """

    steps: int = 20
    patience: int = 3
    xi: float = 0.3
    eps: float = 1e-3
    rounds: int = 20
    search: Search = "log"


@final
@dataclass(frozen=True)
class Round:
    """What a round tried and found: the l1 term, the error after rounding, and what rounding made of it."""

    l1: float
    error: float
    rounding: float


def fista_prune(problem: Problem, pattern: Pattern, start: Tensor, options: Fista) -> tuple[Tensor, list[Round]]:
    """The weight with a pattern, and its rounds; never worse than `start`, which has the pattern.

    Errors are root mean squares above what no weight mends, as the paper's norms of outputs.
    """
    largest = float(problem.cross.abs().max())
    low, high = (_REACH * largest, largest) if options.search == "log" else (0.0, 1e6)
    l1 = math.sqrt(low * high) if options.search == "log" else 1e-5
    step = 1 / largest_eigenvalue(problem.gram)
    best, lowest = start, problem.error(start)
    trace, useless = list[Round](), 0
    while largest > 0 and len(trace) < options.rounds and useless < options.patience and low < high:
        free = descend(problem, best, l1, step, options.steps)
        rounded = free * pattern.keep(free.abs()) * problem.live
        error = problem.error(rounded)
        whole = math.sqrt(error)
        rounding = whole - math.sqrt(problem.error(free))
        trace.append(Round(l1, whole, rounding))
        gain = (math.sqrt(lowest) - whole) / max(math.sqrt(lowest), 1e-30)
        if error < lowest:
            best, lowest = rounded, error
        else:
            useless += 1
        if 0 <= gain < options.eps:
            break
        low, high = (l1, high) if rounding > options.xi * whole else (low, l1)
        l1 = math.sqrt(low * high) if options.search == "log" else (low + high) / 2
    return best, trace


def descend(problem: Problem, start: Tensor, l1: float, step: float, steps: int, still: float = _STILL) -> Tensor:
    """So many steps of FISTA for 1/2 E|W x - y|² + l1 Σ|w|; `step` is one over the largest curvature.

    Ends where a step changes the weights by less than `still`.
    """
    weight = ahead = start
    pace = 1.0
    # A step along the gradient is one product and one sum: V + s (C - V G) = s C + V (1 - s G).
    gain, turn = step * problem.cross, -step * problem.gram
    turn.diagonal().add_(1)
    for _ in range(steps):
        new = torch.nn.functional.softshrink(torch.addmm(gain, ahead, turn), l1 * step)
        next_pace = (1 + math.sqrt(1 + 4 * pace * pace)) / 2
        change = new - weight
        weight, ahead, pace = new, torch.add(new, change, alpha=(pace - 1) / next_pace), next_pace
        if float(torch.linalg.vector_norm(change)) < still:
            break
    return weight


def largest_eigenvalue(gram: Tensor) -> float:
    """A bound of the largest eigenvalue that is as good as it: by powers, and what the last leaves over added."""
    vector = torch.ones(len(gram), dtype=gram.dtype, device=gram.device)
    value = 1.0
    for _ in range(_POWERS):
        vector = vector / torch.linalg.vector_norm(vector).clamp(min=1e-30)
        turned = gram @ vector
        value = float(vector @ turned)
        rest = float(torch.linalg.vector_norm(turned - value * vector))
        vector = turned
    return max(value + rest, 1e-30)
