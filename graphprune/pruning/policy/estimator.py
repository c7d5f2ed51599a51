"""The estimator: masks drawn by a policy, and the gradient of their mean loss by the probabilities."""

from typing import Literal, NamedTuple

import numpy

from graphprune.pruning.policy.bundles import Masks, Numbers

Form = Literal["sqrt", "exact", "natural"]
Baseline = Literal["slopes", "others", "moving"]
# How often s (1 - s) divides the covariance of loss and mask.
_POWER = {"exact": 1.0, "sqrt": 0.5, "natural": 0.0}


def draw(shares: Numbers, masks: int, seed: int, step: int) -> Masks:
    """So many masks, each bundle there with its share as the probability: bool [masks, bundles]."""
    return numpy.random.default_rng((seed, step)).random((masks, len(shares))) < shares


def estimate(excess: Numbers, drawn: Masks, shares: Numbers, slopes: Numbers, form: Form) -> Numbers:
    """The gradient of the expected loss by the shares, from the losses of masks: g_i = mean_k of

        (L_k - b_k) (m_ik - s_i) / (s_i (1 - s_i)),  b_k = delta + sum_j slope_j (m_jk - s_j),  plus slope_i

    where `excess` is L_k - b_k. That is unbiased whatever delta and the slopes are, as long as they do not depend on
    this mask: what a slope takes out of the loss is known in the mean. Of form `sqrt`, times sqrt(s (1 - s)), as the
    published code has it, or `natural`, times s (1 - s), which is a gradient too, in another metric.
    """
    variance = shares * (1 - shares)
    covariance = (excess[:, None] * (drawn - shares)).mean(0) + slopes * variance
    return numpy.asarray(covariance / numpy.maximum(variance, 1e-12) ** _POWER[form], dtype=numpy.float64)


class Memory(NamedTuple):
    """What is known from the steps before: the mean loss, the spread of losses of one step, and what each bundle adds.

    `mean` and `spread` are None before the first step.
    """

    mean: float | None
    spread: float | None
    slopes: Numbers


def excess_of(losses: Numbers, drawn: Masks, shares: Numbers, memory: Memory, baseline: Baseline) -> Numbers:
    """The losses over their baseline: over the moving mean, or over the mean of the other masks of the step.

    That of the others takes out what the text of a step does to all, `slopes` also what each bundle is known to add.
    """
    if baseline == "moving":
        assert memory.mean is not None
        return losses - memory.mean
    rest = losses - (drawn - shares) @ memory.slopes
    return numpy.asarray((rest - rest.mean()) * len(rest) / (len(rest) - 1), dtype=numpy.float64)


def remember(memory: Memory, losses: Numbers, drawn: Masks, window: int, learned: float) -> Memory:
    """The memory with the losses of one more step.

    The mean moves by 1/window (delta of the paper), the spread by a twentieth. Slopes go as far towards explaining what
    masks differ by as `learned` says, along each mask's difference from the others (normalised least mean squares).
    """
    mean = float(losses.mean())
    moving = mean if memory.mean is None else memory.mean + (mean - memory.mean) / window
    square = float(losses.var(ddof=1)) if len(losses) > 1 else 0.0
    before = square if memory.spread is None else memory.spread**2
    apart = drawn - drawn.mean(0)
    lengths = (apart**2).sum() / max(1, len(losses) - 1)
    wrong = (losses - mean) - apart @ memory.slopes
    slopes = memory.slopes + learned * (wrong @ apart) / lengths if lengths > 0 else memory.slopes
    return Memory(moving, (0.95 * before + 0.05 * square) ** 0.5, slopes)
