"""Surrogate: what each gene does alone, measured, says which genes together are worth judging."""

from collections.abc import Callable, Mapping, Sequence

import numpy
from numpy.typing import NDArray

from graphprune.budget.knapsack import Item, pack
from graphprune.pruning.search.evolution import Genes, Judge, Space

Curves = Sequence[NDArray[numpy.float64]]  # of each gene, what each of its levels adds

_CELLS = 4096  # of the cost grid


def measure_alone(space: Space, here: Genes, judge: Judge, told: Callable[[int, int], None], reach: int) -> Curves:
    """For each gene, what its levels add where all others stay: measured `reach` levels away, a parabola between.

    Parabolas pass through 0 at the present level; between it and one end alone there is a line. More units never add.
    """
    base, curves, total = judge(here, False), [], len(here)
    for gene, level in enumerate(here):
        told(gene, total)
        known = {level: 0.0}
        for end in {max(0, level - reach), min(space.levels[gene] - 1, level + reach)} - {level}:
            known[end] = judge(put(here, gene, end), False) - base
        places = numpy.array(sorted(known), dtype=numpy.float64)
        values = numpy.array([known[int(place)] for place in places])
        every = numpy.arange(space.levels[gene], dtype=numpy.float64)
        curve = numpy.polyval(numpy.polyfit(places, values, len(places) - 1), every)
        curves.append(numpy.maximum.accumulate(curve[::-1])[::-1])
    return curves


def propose(space: Space, here: Genes, curves: Curves, reach: int) -> Genes | None:
    """The genes with the least sum within the budget, none more than `reach` levels from where it is; None without."""
    items, options = [], []
    whole = space.cost(here)
    for gene, level in enumerate(here):
        near = [n for n in range(space.levels[gene]) if abs(n - level) <= reach]
        costs = [space.cost(put(here, gene, n)) - whole for n in near]
        least = min(costs)
        items.append(Item(numpy.array([cost - least for cost in costs]), curves[gene][near]))
        options.append((near, least))
    room = space.target - whole - sum(least for _, least in options)
    found = pack(items, room, _CELLS)
    return None if found is None else tuple(near[k] for (near, _), k in zip(options, found[0], strict=True))


def put(genes: Genes, gene: int, level: int) -> Genes:
    return (*genes[:gene], level, *genes[gene + 1 :])


def proposals(space: Space, here: Genes, curves: Curves, reach: int) -> Mapping[int, Genes]:
    """What is proposed within each reach up to this one."""
    found = {most: propose(space, here, curves, most) for most in range(1, reach + 1)}
    return {most: genes for most, genes in found.items() if genes is not None}
