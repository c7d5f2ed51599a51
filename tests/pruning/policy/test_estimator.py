"""The policy gradient: unbiased whatever the baseline, each form a known multiple of the exact one."""

import itertools
import random

import numpy
import pytest

from graphprune.pruning.policy.bundles import Numbers
from graphprune.pruning.policy.estimator import Memory, draw, estimate, excess_of, remember

SIZE = 6
CHANCE = numpy.random.default_rng(0)
SHARES = CHANCE.uniform(0.1, 0.9, SIZE)
EFFECTS, PAIRS = CHANCE.standard_normal(SIZE), CHANCE.standard_normal((SIZE, SIZE))
NONE = numpy.zeros(SIZE)
SLOPES = {"none": NONE, "wrong": CHANCE.standard_normal(SIZE), "effects": EFFECTS}


def loss(masks: numpy.typing.NDArray[numpy.bool_]) -> Numbers:
    """Not additive: the effect of a gate depends on the others."""
    kept = masks.astype(numpy.float64)
    return numpy.asarray(3 + kept @ EFFECTS + ((kept @ PAIRS) * kept).sum(-1))


def mean_loss(shares: Numbers) -> float:
    """The expectation over all 2^6 masks."""
    masks = numpy.array(list(itertools.product([False, True], repeat=SIZE)))
    chances = numpy.where(masks, shares, 1 - shares).prod(1)
    return float(chances @ loss(masks))


def true_gradient() -> Numbers:
    step = 1e-5
    rises = [mean_loss(SHARES + step * one) - mean_loss(SHARES - step * one) for one in numpy.eye(SIZE)]
    return numpy.array(rises) / (2 * step)


@pytest.mark.parametrize("slopes", SLOPES)
def test_the_mean_of_a_hundred_thousand_draws_is_the_gradient(slopes: str) -> None:
    drawn = draw(SHARES, 100_000, 0, 0)
    excess = loss(drawn) - 2.5 - (drawn - SHARES) @ SLOPES[slopes]
    each = excess[:, None] * (drawn - SHARES) / (SHARES * (1 - SHARES)) + SLOPES[slopes]
    found = estimate(excess, drawn, SHARES, SLOPES[slopes], "exact")
    numpy.testing.assert_allclose(found, each.mean(0), rtol=1e-10)
    error = each.std(0, ddof=1) / len(each) ** 0.5
    assert (abs(found - true_gradient()) <= 3 * error).all()


@pytest.mark.parametrize("slopes", SLOPES)
def test_forms_differ_by_powers_of_the_variance(slopes: str) -> None:
    drawn, variance = draw(SHARES, 5, 1, 0), SHARES * (1 - SHARES)
    exact, sqrt, natural = (
        estimate(loss(drawn), drawn, SHARES, SLOPES[slopes], form) for form in ("exact", "sqrt", "natural")
    )
    numpy.testing.assert_allclose(sqrt, exact * numpy.sqrt(variance), rtol=1e-12)
    numpy.testing.assert_allclose(natural, exact * variance, rtol=1e-12)


def test_the_mean_of_the_others_leaves_the_gradient_unbiased() -> None:
    """Four masks a step, as they are used: the mean over 20,000 steps."""
    memory, found = Memory(None, None, EFFECTS), list[Numbers]()
    for step in range(20_000):
        drawn = draw(SHARES, 4, 2, step)
        excess = excess_of(loss(drawn), drawn, SHARES, memory, "slopes")
        found.append(estimate(excess, drawn, SHARES, EFFECTS, "exact"))
    each = numpy.array(found)
    assert (abs(each.mean(0) - true_gradient()) <= 3.5 * each.std(0, ddof=1) / len(each) ** 0.5).all()


def test_what_the_text_of_a_step_does_to_all_masks_does_nothing() -> None:
    drawn, memory = draw(SHARES, 4, 3, 0), Memory(None, None, EFFECTS)
    for baseline in ("others", "slopes"):
        some, more = (excess_of(loss(drawn) + shift, drawn, SHARES, memory, baseline) for shift in (0, 7))  # type: ignore[arg-type]
        numpy.testing.assert_allclose(some, more, atol=1e-12)


def test_slopes_come_to_what_each_adds() -> None:
    memory, additive = Memory(None, None, NONE), lambda drawn: 1 + drawn @ EFFECTS
    for step in range(400):
        drawn = draw(SHARES, 4, 4, step)
        memory = remember(memory, additive(drawn), drawn, 5, 0.3)
    numpy.testing.assert_allclose(memory.slopes, EFFECTS, atol=1e-4)


def test_the_moving_mean_is_that_of_the_paper() -> None:
    """delta <- (1 - 1/T) delta + 1/T mean(L), beginning with the first mean."""
    memory, delta, rng = Memory(None, None, NONE), None, random.Random(0)
    for step in range(20):
        losses = numpy.array([rng.random(), rng.random()])
        drawn = draw(SHARES, 2, 5, step)
        memory = remember(memory, losses, drawn, 5, 0.0)
        delta = losses.mean() if delta is None else 0.8 * delta + 0.2 * losses.mean()
        assert memory.mean == pytest.approx(delta)
        numpy.testing.assert_allclose(excess_of(losses, drawn, SHARES, memory, "moving"), losses - delta)
    assert not memory.slopes.any()


def test_masks_are_drawn_by_their_shares_and_their_seed() -> None:
    drawn = draw(SHARES, 40_000, 6, 7)
    numpy.testing.assert_allclose(drawn.mean(0), SHARES, atol=0.01)
    assert (drawn == draw(SHARES, 40_000, 6, 7)).all()
    assert (drawn != draw(SHARES, 40_000, 6, 8)).any()
