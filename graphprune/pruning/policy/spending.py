"""Spending: what a model costs of whose bundles shares are there, and the nearest shares that a budget allows."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy

from graphprune.analysis.cost import Polynomial
from graphprune.budget.budgets import cost_of
from graphprune.pruning.interfaces import Scene
from graphprune.pruning.policy.bundles import Bundles, Numbers

_ROUNDS = 60  # of a bisection: as near as float64 tells


@dataclass(frozen=True, eq=False)
class Spending:
    """What shares of bundles cost, and the `limit` that the budget sets.

    The cost of a model of which each unit is there with its share as the probability, all independent: exact where no
    candidate is in a product with itself.
    """

    bundles: Bundles
    cost: Polynomial
    sizes: Mapping[str, int]
    limit: int

    @cached_property
    def terms(self) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """The cost in the candidates alone: coefficients, and the candidates that they multiply."""
        found = dict[tuple[str, ...], int]()
        for term, coefficient in self.cost.terms.items():
            free = tuple(name for name in term if name in self.bundles.owner)
            rest = math.prod(self.sizes[name] for name in term if name not in self.bundles.owner)
            found[free] = found.get(free, 0) + coefficient * rest
        return tuple((value, free) for free, value in found.items())

    @cached_property
    def costs(self) -> Numbers:
        """What each bundle costs beside all others."""
        whole = numpy.ones(len(self.bundles))
        return numpy.array([self.of(whole) - self.of(whole - one) for one in numpy.eye(len(whole))])

    @cached_property
    def base(self) -> float:
        """What is left without any bundle."""
        return self.of(numpy.zeros(len(self.bundles)))

    @cached_property
    def adds_up(self) -> bool:
        """Whether what bundles cost does not depend on the others."""
        owners = [set(owner.tolist()) for owner in self.bundles.owner.values()]
        return all(len(free) < 2 for _, free in self.terms) and sum(map(len, owners)) == len(set().union(*owners))

    def of(self, shares: Numbers) -> float:
        """The cost by the polynomial."""
        counts = {id: float(shares[owner.numpy()].sum()) for id, owner in self.bundles.owner.items()}
        return sum(value * math.prod(counts[name] for name in free) for value, free in self.terms)

    def __call__(self, shares: Numbers) -> float:
        """The cost, by the quickest way."""
        return float(self.base + self.costs @ shares) if self.adds_up else self.of(shares)


def spending(scene: Scene, bundles: Bundles) -> Spending:
    """What the candidates of a scene cost."""
    return Spending(bundles, cost_of(scene.groups, scene.budget), scene.groups.sizes(), scene.budget.target)


def project(shares: Numbers, spent: Spending, margin: float = 0.0) -> Numbers:
    """The nearest shares, from `margin` to 1 - `margin`, whose cost is within the limit: all give up in proportion to
    what they cost, s - v c, clipped.

    Exact where costs add up, and else within the limit all the same. Without a margin where that costs too much.
    """
    low, high = (margin, 1 - margin) if spent(numpy.full(len(shares), margin)) < spent.limit else (0.0, 1.0)
    inside = shares.clip(low, high)
    over = spent(inside) - spent.limit
    if over <= 0:
        return inside
    unit = spent.costs.mean()
    costs = spent.costs / unit

    def within(amount: float) -> bool:
        return spent((shares - amount * costs).clip(low, high)) <= spent.limit

    dear = costs > 0
    starts, ends = ((shares[dear] - bound) / costs[dear] for bound in (high, low))
    amount = meet(starts, ends, costs[dear] ** 2, over / unit) if spent.adds_up else bisect(within, float(ends.max()))
    step = 1e-15 * max(1.0, amount)
    while not within(amount):  # what rounding left over
        amount, step = amount + step, 2 * step
    return numpy.asarray((shares - amount * costs).clip(low, high), dtype=numpy.float64)


def meet(starts: Numbers, ends: Numbers, slopes: Numbers, wanted: float) -> float:
    """The v > 0 where a sum has risen to `wanted`; each part rises by its slope from its start to its end."""
    places = numpy.concatenate([starts, ends]).clip(0)
    order = numpy.argsort(places)
    places, slope = places[order], numpy.concatenate([slopes, -slopes])[order].cumsum()
    risen = numpy.concatenate([[0.0], (slope[:-1] * numpy.diff(places)).cumsum()])
    at = max(0, int(numpy.searchsorted(risen, wanted)) - 1)
    return float(places[at] + (wanted - risen[at]) / slope[at]) if slope[at] > 0 else float(places[at])


def bisect(within: Callable[[float], bool], most: float) -> float:
    """The least amount, up to `most`, that is within; what is within stays so for more."""
    least = 0.0
    for _ in range(_ROUNDS):
        middle = (least + most) / 2
        least, most = (least, middle) if within(middle) else (middle, most)
    return most


def first_shares(scores: Numbers, spent: Spending, margin: float = 0.0) -> Numbers:
    """Shares that rise with the scores and meet the limit: sigmoids, all moved by one amount and clipped.

    Scores are standardised before, over what is to be compared (6.4 of the notes on arXiv 2406.10576's code).
    """
    raw = 1 / (1 + numpy.exp(-scores))
    least, most = -1.0, 1.0
    for _ in range(_ROUNDS):
        middle = (least + most) / 2
        least, most = (middle, most) if spent((raw + middle).clip(0, 1)) <= spent.limit else (least, middle)
    return project((raw + least).clip(0, 1), spent, margin)
