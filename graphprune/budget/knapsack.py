"""The knapsack: one choice for each item, the least sum of values within a room, by dynamic programming."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

Costs = NDArray[numpy.int64]
Values = NDArray[numpy.float64]


@dataclass(frozen=True, eq=False)
class Item:
    """What one item may be: the cost of each choice, and how bad it is."""

    costs: Costs
    values: Values


def pack(items: Sequence[Item], room: int, cells: int) -> tuple[tuple[int, ...], float] | None:
    """The choice of each item with the least sum of values and costs of at most `room`, and that sum.

    None where not even the cheapest choices fit. Exact where the room above the cheapest choices is below `cells`;
    beyond it costs are rounded up to a grid of so many cells, so that the result still fits. On ties the cheaper choice
    is taken. Time is items x choices x cells.
    """
    spare = room - sum(int(item.costs.min()) for item in items)
    if spare < 0:
        return None
    step = max(1, -(-spare // cells))
    size = spare // step
    best, taken = numpy.zeros(size + 1), []
    for item in items:
        order = undominated(item)
        weights = -(-(item.costs[order] - item.costs.min()) // step)
        best, chosen = extend(best, weights, item.values[order])
        taken.append((order, weights, chosen))
    place, result = size, list[int]()
    for order, weights, chosen in reversed(taken):
        index = chosen[place]
        result.append(int(order[index]))
        place -= int(weights[index])
    return tuple(reversed(result)), float(best[size])


def undominated(item: Item) -> NDArray[numpy.int64]:
    """The choices, by rising cost, that are better than every cheaper one."""
    order = numpy.lexsort((item.values, item.costs))
    values = item.values[order]
    better = numpy.ones(len(order), dtype=bool)
    better[1:] = values[1:] < numpy.minimum.accumulate(values)[:-1]
    return order[better]


def extend(best: Values, weights: Costs, values: Values) -> tuple[Values, NDArray[numpy.int64]]:
    """The best sums with one more item, by the room that there is, and which choice gives each of them."""
    result = best + values[0]  # the cheapest choice weighs nothing
    chosen = numpy.zeros(len(best), dtype=numpy.int64)
    for index in range(1, len(weights)):
        weight = int(weights[index])
        if weight >= len(best):
            break
        candidate = best[: len(best) - weight] + values[index]
        better = candidate < result[weight:]
        result[weight:][better] = candidate[better]
        chosen[weight:][better] = index
    return result, chosen
