"""Schedules: the learning rate of each step of a run, and how the tokens of a run are shared among its stages.

A run may consist of stages with cuts between them. The learning rate has one course over all of them: a stage asks for
the steps [first, first + n) of `total`.
"""

import itertools
import math
from typing import Literal, get_args

from graphprune.errors import UsageError

Shares = Literal["linear", "constant", "cosine", "late"]
_LATE = 0.8  # docs/methods/adapt-accel.md


def stage_shares(stages: int, kind: Shares = "linear") -> tuple[float, ...]:
    """The share of all tokens that each stage gets; their sum is 1.

    linear: 2i / (N(N+1)), most at the end, when the model is smallest. constant: 1/N.
    cosine: cos((i-1) pi/2N) - cos(i pi/2N). Source: Adapt-Pruner, arXiv 2502.03460.
    late: four fifths after the last cut, the rest shared equally; better where training is short.
    """
    if stages < 1:
        raise UsageError(f"a run has 1 stage or more, not {stages}")
    if kind not in get_args(Shares):
        raise UsageError(f"token shares are {', '.join(get_args(Shares))}, not {kind!r}")
    number = range(1, stages + 1)
    if kind == "linear":
        return tuple(2 * i / (stages * (stages + 1)) for i in number)
    if kind == "constant" or stages == 1:
        return (1 / stages,) * stages
    if kind == "late":
        return (*[(1 - _LATE) / (stages - 1)] * (stages - 1), _LATE)
    angle = math.pi / (2 * stages)
    return tuple(math.cos((i - 1) * angle) - math.cos(i * angle) for i in number)


def split_whole(total: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    """Whole numbers (steps or tokens) in the proportion of the shares; their sum is exactly `total`.

    Sums up to each stage are rounded, so that no stage is off by more than one.
    """
    whole, sums, last = math.fsum(shares), [0], len(shares)
    for stage in range(1, last + 1):
        sums.append(total if stage == last else round(total * math.fsum(shares[:stage]) / whole))
    return tuple(after - before for before, after in itertools.pairwise(sums))
