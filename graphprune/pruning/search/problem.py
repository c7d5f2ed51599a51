"""The problem of a search: which widths are searched, which are set beforehand, and what any choice of levels costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy
from numpy.typing import NDArray
from torch import Tensor

from graphprune.analysis.cost import Polynomial
from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.budget.budgets import Width, cost_of, free_widths
from graphprune.budget.solver import solve
from graphprune.ir.graph import Graph
from graphprune.pruning.blocks import block_step, in_order, is_blocks
from graphprune.pruning.interfaces import Scene
from graphprune.pruning.search.candidates import Part
from graphprune.pruning.search.evolution import Genes, Space
from graphprune.pruning.search.library import Levels
from graphprune.pruning.search.readers import Reader, find_readers

Counts = Mapping[str, int]
_LEAST_RATE = 1e-6  # of a width that gives up nothing while others can


@dataclass(frozen=True, eq=False)
class Problem:
    """A scene with the scores of its units. Widths with readers are searched, the others are set."""

    scene: Scene
    scores: Mapping[str, Tensor]

    @cached_property
    def widths(self) -> tuple[Width, ...]:
        return free_widths(self.scene.candidates, self.scene.budget)

    @cached_property
    def readers(self) -> Mapping[int, tuple[Reader, ...]]:
        return find_readers(self.scene.graph, self.widths)

    @cached_property
    def cost(self) -> Polynomial:
        return cost_of(self.scene.groups, self.scene.budget)

    def set_widths(self, counts: Counts) -> dict[str, int]:
        """The counts of the widths that are not searched."""
        others = [width for place, width in enumerate(self.widths) if place not in self.readers]
        return {group.id: counts[group.id] for width in others for group in width.groups}

    def priorities(self, outside: float) -> list[NDArray[numpy.float64]]:
        """For each step of each width, the share that others have given up when it is taken."""
        ranks, found = in_order(self.widths, self.scores), []
        for place, width in enumerate(self.widths):
            if is_blocks(width):
                found.append(block_step(width, 1 - ranks[place] / len(ranks)))
                continue
            rate = max(_LEAST_RATE, outside) if width.groups[0].block is None else 1.0
            kept = width.levels[:-1] / self.scene.full(width.groups[0])
            found.append(numpy.asarray((1 - kept) / rate, dtype=numpy.float64))
        return found

    def fill(self, counts: Counts, outside: float) -> dict[str, int]:
        """Counts that reach these first, and then as far as the budget allows."""
        values = self.priorities(outside)
        first = 1 + max((float(each.max(initial=0.0)) for each in values), default=0.0)
        reached = [int(numpy.searchsorted(w.levels, counts[w.groups[0].id])) for w in self.widths]
        chosen = [
            numpy.where(numpy.arange(len(each)) < level, first, each)
            for each, level in zip(values, reached, strict=True)
        ]
        return solve(self.scene.groups, self.widths, chosen, self.scene.budget)


@dataclass(frozen=True, eq=False)
class Grid:
    """The few counts that each searched width is tried at, by its place, ascending."""

    problem: Problem
    fixed: Counts
    counts: Mapping[int, tuple[int, ...]]

    @cached_property
    def places(self) -> tuple[int, ...]:
        return tuple(self.counts)

    def at(self, genes: Genes) -> dict[str, int]:
        """The counts of all candidates at these genes."""
        found = dict(self.fixed)
        for place, level in zip(self.places, genes, strict=True):
            found |= {group.id: self.counts[place][level] for group in self.problem.widths[place].groups}
        return found

    def genes(self, counts: Counts) -> Genes:
        """The genes of counts that are on the grid."""
        ids = (self.problem.widths[place].groups[0].id for place in self.places)
        return tuple(self.counts[place].index(counts[id]) for place, id in zip(self.places, ids, strict=True))

    @property
    def space(self) -> Space:
        scene, cost, sizes = self.problem.scene, self.problem.cost, self.problem.scene.groups.sizes()
        levels = tuple(len(counts) for counts in self.counts.values())
        return Space(levels, lambda genes: cost(sizes | self.at(genes)), scene.budget.target)

    def parts(self, graph: Graph, expected: Counts) -> tuple[Part, ...]:
        """The calls of a graph, in which the other widths are cut, whose weights the genes choose."""
        calls = {call.weight: call for call in find_linear_calls(graph)}
        found = []
        for gene, place in enumerate(self.places):
            for reader in self.problem.readers[place]:
                id = reader.group.id
                kept = {n: reader.kept(n, self.problem.scores[id]) for n in self.counts[place]}
                found.append(Part(gene, calls[reader.call.weight], Levels(kept, expected[id]), self.counts[place]))
        return tuple(found)


def make_grid(problem: Problem, counts: Counts, step: float, around: int = 3) -> Grid:
    """For each searched width the counts that are up to `around` steps from the given one; others as given.

    `step` is a share of the full width, a unit at least.
    """
    grid = {}
    for place in problem.readers:
        levels, here = problem.widths[place].levels, counts[problem.widths[place].groups[0].id]
        stride = max(1, round(step * len(levels)))
        at = int(numpy.searchsorted(levels, here)) + stride * numpy.arange(-around, around + 1)
        grid[place] = tuple(levels[at[(at >= 0) & (at < len(levels))]].tolist())
    return Grid(problem, problem.set_widths(counts), grid)


def distinct(starts: Sequence[Counts], problem: Problem) -> tuple[Counts, ...]:
    """One of all counts that set the same widths alike."""
    return tuple({tuple(sorted(problem.set_widths(each).items())): each for each in starts}.values())
