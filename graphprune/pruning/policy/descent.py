"""Descent: shares of bundles moved step by step against the gradient of the mean loss of the masks they draw."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy

from graphprune.bounds import Count, Positive, Share
from graphprune.errors import DataError
from graphprune.json_data import JsonObject
from graphprune.pruning.policy.bundles import Masks, Numbers
from graphprune.pruning.policy.estimator import Baseline, Form, Memory, draw, estimate, excess_of, remember
from graphprune.pruning.policy.spending import Spending, project
from graphprune.pruning.search.journal import Journal

_LEARNED = 0.3  # how far slopes go towards explaining a step
Judge = Callable[[Masks, int], Numbers]  # the losses of masks on the text of a step
Told = Callable[[int, Numbers, float], None]  # a step, the shares behind it, and the mean loss of its masks


@dataclass(frozen=True)
class Descent:
    """How shares are moved: steps, masks of each, the rate of the first step, which falls to 0 as a cosine does.

    With `relative` the rate is in units of the spread of the losses of one step. No share comes nearer to 0 or 1 than
    `margin`, so that nothing is settled for good.
    """

    steps: Count
    masks: Count
    rate: Positive
    form: Form
    baseline: Baseline
    window: Count
    relative: bool
    margin: Share

    def rate_at(self, step: int) -> float:
        return self.rate * (1 + math.cos(math.pi * step / self.steps)) / 2


@dataclass(frozen=True, eq=False)
class Judged:
    """Where losses come from, and where they are kept: the journal has each under the step and the mask's number.

    `key` tells what the losses depend on beside these.
    """

    judge: Judge
    journal: Journal
    key: str

    def __call__(self, masks: Masks, step: int) -> Numbers:
        keys: list[JsonObject] = [{"of": self.key, "step": step, "mask": mask} for mask in range(len(masks))]
        found = [math.nan] * len(masks) if all(map(self.journal.knows, keys)) else self.judge(masks, step).tolist()
        kept = [self.journal.value(key, lambda v=v: v) for key, v in zip(keys, found, strict=True)]  # type: ignore[misc]
        return numpy.array(kept, dtype=numpy.float64)


def descend(
    start: Numbers, spent: Spending, judged: Judged, how: Descent, seed: int, told: Told | None = None
) -> tuple[Numbers, int]:
    """The shares after all steps, and how many losses were not finite: these count as the worst of their step.

    Raises DataError where none of a step is finite. The same for the same seed, start and losses.
    """
    shares, lost = project(start, spent, how.margin), 0
    memory = Memory(None, None, numpy.zeros(len(start)))
    for step in range(how.steps):
        drawn = draw(shares, how.masks, seed, step)
        losses = judged(spent.bundles.complete(drawn, shares), step)
        lost += int((~numpy.isfinite(losses)).sum())
        losses = finite(losses, step)
        if how.baseline == "moving":
            memory = remember(memory, losses, drawn, how.window, 0.0)
        excess = excess_of(losses, drawn, shares, memory, how.baseline)
        gradient = estimate(excess, drawn, shares, memory.slopes, how.form)
        if how.baseline != "moving":
            memory = remember(memory, losses, drawn, how.window, _LEARNED if how.baseline == "slopes" else 0.0)
        unit = memory.spread if how.relative and memory.spread else 1.0
        shares = project(shares - how.rate_at(step) / unit * gradient, spent, how.margin)
        if told is not None:
            told(step, shares, float(losses.mean()))
    return shares, lost


def finite(losses: Numbers, step: int) -> Numbers:
    """The losses, with those that are no numbers as bad as the worst that is one."""
    good = losses[numpy.isfinite(losses)]
    if not len(good):
        raise DataError(f"no mask of step {step} has a finite loss; use float32 weights, or look at the text")
    return numpy.where(numpy.isfinite(losses), losses, good.max())
