"""The exact budget solver: from an order in which units are worth keeping to counts that just meet the target."""

import heapq
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from graphprune.analysis.cost import Polynomial
from graphprune.analysis.groups import Groups
from graphprune.budget.budgets import Budget, Width, check_reachable, cost_of
from graphprune.errors import GraphpruneError

Levels = NDArray[numpy.int64]


def solve(
    groups: Groups, widths: Sequence[Width], priorities: Sequence[NDArray[numpy.float64]], budget: Budget
) -> dict[str, int]:
    """The count that each group keeps: the largest cost within the target that the order of priorities leads to.

    `priorities[w][i]` says how much width w's step from level i to i+1 is worth; larger is kept first, ties in the
    order given. From every width at its smallest, steps are taken by falling priority; one that does not fit is passed
    over with all later ones of its width. So no single further step fits: the slack is less than the cheapest one.
    Finding the first step that does not fit is a bisection, so the work does not grow with the units.
    Raises BudgetError below the reachable minimum.
    """
    candidates = [group for width in widths for group in width.groups]
    check_reachable(groups, candidates, budget)
    # A step can only follow the one before it, so it cannot be worth more.
    falling = [numpy.minimum.accumulate(numpy.asarray(values, dtype=numpy.float64)) for values in priorities]
    if any(numpy.isnan(values).any() for values in falling):
        raise GraphpruneError("a priority is not a number; the scores that it comes from are not finite")
    cost, sizes = cost_of(groups, budget), groups.sizes()
    levels = longest_prefix(cost, sizes, widths, falling, budget.target)
    levels = fill(cost, sizes, widths, falling, levels, budget.target)
    return sizes_at(widths, levels)


def sizes_at(widths: Sequence[Width], levels: Levels) -> dict[str, int]:
    """The count of every group when each width stands at its level."""
    return {id: n for width, level in zip(widths, levels, strict=True) for id, n in width.at(int(level)).items()}


def longest_prefix(
    cost: Polynomial,
    sizes: dict[str, int],
    widths: Sequence[Width],
    priorities: Sequence[NDArray[numpy.float64]],
    target: int,
) -> Levels:
    """The levels after the longest run of steps by falling priority that stays within the target."""
    owner = numpy.repeat(numpy.arange(len(widths)), [len(values) for values in priorities])
    order = owner[numpy.argsort(-numpy.concatenate([numpy.empty(0), *priorities]), kind="stable")]

    def after(steps: int) -> Levels:
        return numpy.bincount(order[:steps], minlength=len(widths)).astype(numpy.int64)

    low, high = 0, len(order) + 1  # `low` steps fit; `high` do not, or do not exist
    while high - low > 1:
        middle = (low + high) // 2
        fits = cost(sizes | sizes_at(widths, after(middle))) <= target
        low, high = (middle, high) if fits else (low, middle)
    return after(low)


def fill(
    cost: Polynomial,
    sizes: dict[str, int],
    widths: Sequence[Width],
    priorities: Sequence[NDArray[numpy.float64]],
    levels: Levels,
    target: int,
) -> Levels:
    """Take further steps by falling priority wherever one fits; costs only rise, so what does not fit never will."""
    levels, sizes = levels.copy(), sizes | sizes_at(widths, levels)
    slack = target - cost(sizes)
    parts = [terms_with(cost, frozenset(group.id for group in width.groups)) for width in widths]
    queue = [(-priorities[w][level], w) for w, level in enumerate(levels) if level < len(priorities[w])]
    heapq.heapify(queue)
    while queue:
        _, w = heapq.heappop(queue)
        larger = sizes | widths[w].at(int(levels[w]) + 1)
        rise = parts[w](larger) - parts[w](sizes)
        if rise > slack:
            continue
        sizes, slack = larger, slack - rise
        levels[w] += 1
        if levels[w] < len(priorities[w]):
            heapq.heappush(queue, (-priorities[w][levels[w]], w))
    return levels


def terms_with(cost: Polynomial, ids: frozenset[str]) -> Polynomial:
    """The terms that change when one of these variables does."""
    return Polynomial({term: value for term, value in cost.terms.items() if not ids.isdisjoint(term)})
