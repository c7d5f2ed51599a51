"""Schedules: the learning rate of each step of a run, and how the tokens of a run are shared among its stages.

A run may consist of stages with cuts between them. The learning rate has one course over all of them: a stage asks for
the steps [first, first + n) of `total`.
"""

import itertools
import math
from typing import Literal, get_args

from graphprune.errors import UsageError

Shape = Literal["wsd", "cosine", "constant"]
Shares = Literal["linear", "constant", "cosine", "late"]
_LATE = 0.8  # docs/methods/adapt-accel.md


def learning_rate(
    step: int,
    total: int,
    peak: float,
    *,
    shape: Shape = "wsd",
    minimum: float = 0.0,
    warmup: float = 0.05,
    decay: float = 0.10,
) -> float:
    """The rate of step `step` (from 0) of `total`.

    `warmup` and `decay` are shares of all steps, rounded to whole steps. The rate rises linearly and is at the peak in
    the last step of the warm-up. `wsd` stays there and falls linearly over the last `decay` steps, `cosine` falls from
    the end of the warm-up, `constant` never falls. The last step of both has `minimum`.
    Source: Adapt-Pruner, arXiv 2502.03460 (5 % warm-up, last 10 % decay; its first step has the rate 0, here none has).
    """
    rising = round(warmup * total)
    if step < rising:
        return peak * (step + 1) / rising
    if shape == "constant":
        return peak
    falling = total - rising if shape == "cosine" else min(round(decay * total), total - rising)
    done = step - (total - falling) + 1
    if done <= 0:
        return peak
    share = done / falling
    left = (1 + math.cos(math.pi * share)) / 2 if shape == "cosine" else 1 - share
    return minimum + (peak - minimum) * left


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
