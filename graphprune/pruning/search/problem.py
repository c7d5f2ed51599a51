"""The problem of a search: which widths are searched, which are set beforehand, and what any choice of levels costs."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy
from torch import Tensor

from graphprune.analysis.cost import Polynomial
from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.budget.budgets import Width, cost_of, free_widths
from graphprune.budget.solver import solve
from graphprune.ir.graph import Graph
from graphprune.pruning.blocks import is_blocks
from graphprune.pruning.interfaces import Scene
from graphprune.pruning.search.candidates import Part
from graphprune.pruning.search.evolution import Genes, Space
from graphprune.pruning.search.library import Levels
from graphprune.pruning.search.readers import Reader, find_readers
from graphprune.pruning.shares import Amounts, amounts, counts_at, refused

Counts = Mapping[str, int]
_RUNGS = 16  # amounts that all may be cut by


@dataclass(frozen=True, eq=False)
class Problem:
    """A scene with the scores of its units. Widths with readers are searched, and blocks; the others are set."""

    scene: Scene
    scores: Mapping[str, Tensor]

    @cached_property
    def widths(self) -> tuple[Width, ...]:
        return free_widths(self.scene.candidates, self.scene.budget)

    @cached_property
    def readers(self) -> Mapping[int, tuple[Reader, ...]]:
        return find_readers(self.scene.graph, self.widths)

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """The places of the residual branches, or layers, that may go."""
        return tuple(place for place, width in enumerate(self.widths) if is_blocks(width) and len(width.levels) > 1)

    @cached_property
    def searched(self) -> frozenset[int]:
        return frozenset((*self.readers, *self.blocks))

    @cached_property
    def cost(self) -> Polynomial:
        return cost_of(self.scene.groups, self.scene.budget)

    def set_widths(self, counts: Counts) -> dict[str, int]:
        """The counts of the widths that are not searched."""
        others = [width for place, width in enumerate(self.widths) if place not in self.searched]
        return {group.id: counts[group.id] for width in others for group in width.groups}

    @property
    def all_blocks(self) -> dict[str, int]:
        return {group.id: 1 for place in self.blocks for group in self.widths[place].groups}

    def steps(self, rates: Mapping[str, float]) -> Amounts:
        """For each step of each width the amount up to which it stays, where groups are cut at these rates."""
        full = {group.id: self.scene.full(group) for group in self.scene.candidates}
        return amounts(self.widths, self.scores, full, rates)

    def start(self, rates: Mapping[str, float]) -> "Start":
        """Where a search begins: all are cut by an amount, that of the budget rounded to a rung.

        So other budgets near to this one have the same rung, and with it the same library. What is not searched is as
        on the rung; the next rung is taken where the budget is out of reach with that. Blocks are expected to stay.
        """
        scene, steps = self.scene, self.steps(rates)
        amount = refused(self.widths, steps, solve(scene.groups, self.widths, steps, scene.budget))
        for rung in itertools.count(max(1, round(amount * _RUNGS))):
            expected = counts_at(self.widths, steps, rung / _RUNGS) | self.all_blocks
            set_ = [width if at in self.searched else pin(width, expected) for at, width in enumerate(self.widths)]
            least = {id: count for width in set_ for id, count in width.at(0).items()}
            if self.cost(scene.groups.sizes() | least) <= scene.budget.target:
                free = [each if place in self.searched else each[:0] for place, each in enumerate(steps)]
                return Start(expected, solve(scene.groups, set_, free, scene.budget), rung / _RUNGS)
        raise AssertionError("a budget that was reached is out of reach")

    def fill(self, counts: Counts, rates: Mapping[str, float]) -> dict[str, int]:
        """Counts that reach these first, and then as far as the budget allows."""
        steps = self.steps(rates)
        first = 1 + max((float(each.max(initial=0.0)) for each in steps), default=0.0)
        reached = [int(numpy.searchsorted(w.levels, counts[w.groups[0].id])) for w in self.widths]
        chosen = [
            numpy.where(numpy.arange(len(each)) < level, first, each)
            for each, level in zip(steps, reached, strict=True)
        ]
        return solve(self.scene.groups, self.widths, chosen, self.scene.budget)


def pin(width: Width, counts: Counts) -> Width:
    """A width that is as it is."""
    return replace(width, levels=numpy.array([counts[width.groups[0].id]], dtype=numpy.int64))


class Start(NamedTuple):
    """The counts that later calls expect of a library's levels, those that meet the budget, and the amount all are cut
    by, of the rates of groups."""

    expected: Counts
    counts: Counts
    amount: float


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
        """The genes nearest to counts; those of counts that are on the grid."""
        ids = (self.problem.widths[place].groups[0].id for place in self.places)
        pairs = zip(self.places, ids, strict=True)
        return tuple(int(numpy.abs(numpy.array(self.counts[place]) - counts[id]).argmin()) for place, id in pairs)

    def within(self, counts: Counts) -> Genes:
        """The genes of the counts next below, so that what fits into the budget still does."""
        nearest = zip(self.places, self.genes(counts), strict=True)
        above = [self.counts[place][gene] > counts[self.problem.widths[place].groups[0].id] for place, gene in nearest]
        return tuple(max(0, gene - too) for gene, too in zip(self.genes(counts), above, strict=True))

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
            for reader in self.problem.readers.get(place, ()):
                id = reader.group.id
                kept = {n: reader.kept(n, self.problem.scores[id]) for n in self.counts[place]}
                found.append(Part(gene, calls[reader.call.weight], Levels(kept, expected[id]), self.counts[place]))
        return tuple(found)

    @property
    def blocks(self) -> Mapping[int, tuple[str, ...]]:
        """The residual branches that are there where a gene is 1, by their ids."""
        places = set(self.problem.blocks)
        widths = {gene: self.problem.widths[place] for gene, place in enumerate(self.places) if place in places}
        return {gene: tuple(group.id for group in width.groups) for gene, width in widths.items()}


def whole_grid(problem: Problem, expected: Counts, step: float) -> Grid:
    """For each searched width counts from the least to the full one, a `step` of all apart; others as expected."""
    grid: dict[int, tuple[int, ...]] = dict.fromkeys(problem.blocks, (0, 1))
    for place in problem.readers:
        levels = problem.widths[place].levels
        at = numpy.linspace(0, len(levels) - 1, min(len(levels), 1 + round(1 / step))).round().astype(numpy.int64)
        grid[place] = tuple(levels[at].tolist())
    return Grid(problem, problem.set_widths(expected), grid)


def near_grid(problem: Problem, counts: Counts, step: float, around: int = 3) -> Grid:
    """For each searched width the counts that are up to `around` steps from the given one; others as given.

    Blocks are as given too, and so is what lies in one that went.
    """
    grid, fixed = {}, problem.set_widths(counts) | {id: counts[id] for id in problem.all_blocks}
    for place, readers in problem.readers.items():
        if any(fixed.get(str(reader.group.block)) == 0 for reader in readers):
            fixed |= {group.id: counts[group.id] for group in problem.widths[place].groups}
            continue
        levels, here = problem.widths[place].levels, counts[problem.widths[place].groups[0].id]
        stride = max(1, round(step * len(levels)))
        at = int(numpy.searchsorted(levels, here)) + stride * numpy.arange(-around, around + 1)
        grid[place] = tuple(levels[at[(at >= 0) & (at < len(levels))]].tolist())
    return Grid(problem, fixed, grid)
