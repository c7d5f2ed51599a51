"""Shared out: how much of a cut the widths outside of branches take, by models that are cut and solved in full."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.budget.solver import solve
from graphprune.ir.graph import Graph
from graphprune.pruning.reconstruct import reconstruct
from graphprune.pruning.ridge import Ridge
from graphprune.pruning.search.divergence import Divergence, tokens_in
from graphprune.pruning.search.journal import Journal
from graphprune.pruning.search.library import library_key
from graphprune.pruning.search.problem import Counts, Problem
from graphprune.pruning.selection import select
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import Batch, run_batch

Rates = Mapping[str, float]  # how fast each group gives up its units
_STEPS = 20  # budgets that models are compared at, of the source


@final
@dataclass(frozen=True, eq=False)
class WholeModels:
    """Judges counts by the divergence, a token, of the model that is truly cut to them and solved in every call."""

    dense: Graph
    problem: Problem
    solved: Sequence[Batch]
    dense_here: Divergence
    journal: Journal
    progress: Callable[[int, int], None]

    def __call__(self, counts: Counts) -> float:
        source = library_key(self.dense.tensors(), self.solved, {}, "whole")
        return self.journal.value({"source": source, "counts": dict(counts)}, lambda: self.measure(counts))

    def measure(self, counts: Counts) -> float:
        cut = apply(self.dense, select(self.problem.scene.groups, counts, self.problem.scores))
        known = {node.name for node in self.dense.nodes}
        calls = [call for call in find_linear_calls(cut) if call.node.name in known]
        ridge = Ridge(None, torch.float32)
        graph = reconstruct(self.dense, cut, calls, ridge, self.solved, progress=self.progress)
        judge = replace(self.dense_here, graph=graph)
        with torch.no_grad():
            total = sum(judge(run_batch(graph, batch), index) for index, batch in enumerate(judge.batches))
        return total / tokens_in(judge.batches)


def by_quality(problem: Problem, rates: Sequence[Rates], judge: Callable[[Problem, Counts], float]) -> Sequence[Rates]:
    """These rates, the ones with the best model first, one of those that lead to the same one.

    Budgets are compared at the next twentieth of the source's size, so that targets near to each other have the same
    answer and, in one run, the same models.
    """
    here = replace(problem.scene, budget=replace(problem.scene.budget, target=rounded(problem)))
    coarse = Problem(here, problem.scores)
    found = {tuple(sorted(counts_of(coarse, each).items())): each for each in rates}
    if len(found) == 1:
        return tuple(found.values())
    values = {counts: judge(coarse, dict(counts)) for counts in found}
    return tuple(found[counts] for counts in sorted(found, key=values.__getitem__))


def rounded(problem: Problem) -> int:
    """The budget at the next twentieth of the source's size; as it is where that would leave all."""
    whole, target = problem.cost(problem.scene.groups.sizes()), problem.scene.budget.target
    step = whole / _STEPS
    upper = int(math.ceil(target / step - 1e-9) * step)
    return upper if target <= upper < whole else target


def counts_of(problem: Problem, rates: Rates) -> dict[str, int]:
    """The counts at the budget when all are cut by one amount."""
    return solve(problem.scene.groups, problem.widths, problem.steps(rates), problem.scene.budget)
