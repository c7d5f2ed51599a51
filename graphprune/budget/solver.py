"""The exact budget solver: from an order in which units are worth keeping to counts that just meet the target."""

import heapq
from collections.abc import Mapping, Sequence, Set

import numpy
from numpy.typing import NDArray

from graphprune.analysis.cost import Polynomial
from graphprune.analysis.groups import BLOCKS, Groups
from graphprune.budget.budgets import Budget, Width, check_reachable, cost_of
from graphprune.errors import BudgetError, GraphpruneError

Levels = NDArray[numpy.int64]


def solve(
    groups: Groups, widths: Sequence[Width], priorities: Sequence[NDArray[numpy.float64]], budget: Budget
) -> dict[str, int]:
    """The count that each group keeps: the largest cost within the target that the order of priorities leads to.

    `priorities[w][i]` says how much width w's step from level i to i+1 is worth; larger is kept first, ties in the
    order given. From every width at its smallest, steps are taken by falling priority; one that does not fit is passed
    over with all later ones of its width. So no single further step fits: the slack is less than the cheapest one.
    What kinds keep together at least comes before all else. A block that was passed over is taken after all, and units
    are not, where without it the widths are full and more than a unit below the target.
    Finding the first step that does not fit is a bisection, so the work does not grow with the units.
    Raises BudgetError below the reachable minimum.
    """
    candidates = [group for width in widths for group in width.groups]
    check_reachable(groups, candidates, budget)
    # A step can only follow the one before it, so it cannot be worth more.
    falling = [numpy.minimum.accumulate(numpy.asarray(values, dtype=numpy.float64)) for values in priorities]
    if any(numpy.isnan(values).any() for values in falling):
        raise GraphpruneError("a priority is not a number; the scores that it comes from are not finite")
    falling = [*falling] if not budget.within else put_first(widths, falling, budget.within)
    cost, sizes = cost_of(groups, budget), groups.sizes()
    levels = take(cost, sizes, widths, falling, budget.target)
    blocks = [w for w, width in enumerate(widths) if width.groups[0].kind in BLOCKS and len(falling[w])]
    for w in sorted(blocks, key=lambda w: -falling[w][0]):
        if not levels[w] and wastes(cost, sizes, widths, levels, budget.target):
            kept = {w, *(at for at in blocks if levels[at])}
            # Beside all that was taken, as far as it fits; before all; before all but the other blocks.
            raised = [take(cost, sizes, widths, lift(falling, first), budget.target) for first in ({w}, kept)]
            beside = () if budget.within else reopen(cost, sizes, widths, falling, levels, w, budget.target)
            tried = (*beside, *raised)
            best = max((levels, *tried), key=lambda each: cost(sizes | sizes_at(widths, each)))
            levels = next((e for e in tried if not wastes(cost, sizes, widths, e, budget.target)), best)
    check_within(widths, levels, budget)
    return sizes_at(widths, levels)


def take(
    cost: Polynomial,
    sizes: dict[str, int],
    widths: Sequence[Width],
    priorities: Sequence[NDArray[numpy.float64]],
    target: int,
) -> Levels:
    """The levels after all steps by falling priority that fit."""
    levels = longest_prefix(cost, sizes, widths, priorities, target)
    return fill(cost, sizes, widths, priorities, levels, target)


def lift(priorities: Sequence[NDArray[numpy.float64]], first: Set[int]) -> list[NDArray[numpy.float64]]:
    """The priorities, with all steps of some widths above all others."""
    return [numpy.full_like(values, numpy.inf) if w in first else values for w, values in enumerate(priorities)]


def reopen(
    cost: Polynomial,
    sizes: dict[str, int],
    widths: Sequence[Width],
    priorities: Sequence[NDArray[numpy.float64]],
    levels: Levels,
    block: int,
    target: int,
) -> tuple[Levels, ...]:
    """The levels with a block kept beside all else, its own widths as far as they fit; none where it does not fit."""
    closed, opened = sizes | sizes_at(widths, levels), levels.copy()
    opened[block] = 1
    for w, width in enumerate(widths):
        if w != block and cost(closed | width.at(-1)) == cost(closed | width.at(0)):  # in what is dropped
            opened[w] = 0
    fits = cost(sizes | sizes_at(widths, opened)) <= target
    return (fill(cost, sizes, widths, priorities, opened, target),) if fits else ()


def wastes(cost: Polynomial, sizes: dict[str, int], widths: Sequence[Width], levels: Levels, target: int) -> bool:
    """Say whether a unit of some width, blocks aside, costs no more than what is left of the target."""
    now = sizes | sizes_at(widths, levels)
    whole, slack = cost(now), target - cost(now)
    inner = [(width, int(at)) for width, at in zip(widths, levels, strict=True) if width.groups[0].kind not in BLOCKS]
    falls = (whole - cost(now | width.at(at - 1)) for width, at in inner if at > 0)
    return any(0 < fall <= slack for fall in falls)


def put_first(
    widths: Sequence[Width], priorities: Sequence[NDArray[numpy.float64]], within: Mapping[str, float]
) -> list[NDArray[numpy.float64]]:
    """The priorities, with the best steps of each kind above all others until the kind's share is kept."""
    raised = [values.copy() for values in priorities]
    for kind, share in within.items():
        mine = [w for w, width in enumerate(widths) if width.groups[0].kind == kind]
        needed = share * sum(units_at(widths[w], -1) for w in mine) - sum(units_at(widths[w], 0) for w in mine)
        steps = sorted((-priorities[w][i], w, i) for w in mine for i in range(len(priorities[w])))
        for _, w, i in steps:
            if needed <= 1e-9:
                break
            raised[w][i] = numpy.inf
            needed -= units_at(widths[w], i + 1) - units_at(widths[w], i)
    return raised


def units_at(width: Width, level: int) -> int:
    """The units that the groups of a width have together at a level."""
    return int(width.levels[level]) * len(width.groups)


def check_within(widths: Sequence[Width], levels: Levels, budget: Budget) -> None:
    """Raise BudgetError where a kind cannot keep its share within the target."""
    for kind, share in budget.within.items():
        mine = [
            (width, int(level)) for width, level in zip(widths, levels, strict=True) if width.groups[0].kind == kind
        ]
        whole, kept = sum(units_at(width, -1) for width, _ in mine), sum(units_at(width, at) for width, at in mine)
        if kept < share * whole - 1e-9:
            raise BudgetError(
                f"{kind} keeps {kept} of {whole} units within {budget.quantity.show(budget.target)}, less than the "
                f"{share:.0%} of --within; lower that, prune more kinds, or raise the target"
            )


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
