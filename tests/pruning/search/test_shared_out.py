"""Shared out: what a share is judged by is the model that a recipe would make, and near targets have one answer."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphprune.budget.budgets import Budget
from graphprune.ir.lineage import Lineage
from graphprune.passes.compensation.least_squares import LeastSquares
from graphprune.pruning.interfaces import view
from graphprune.pruning.search.divergence import measure_dense
from graphprune.pruning.search.journal import Journal
from graphprune.pruning.search.problem import Counts, Problem
from graphprune.pruning.search.shared_out import WholeModels, by_quality, counts_of, rounded
from graphprune.pruning.selection import select
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import run_batch
from tests.support.families import graph

_rows = torch.randint(3, 60, (16, 12), generator=torch.Generator().manual_seed(0))
BATCHES, CLOSE = tuple(_rows[:12].split(4)), tuple(_rows[12:].split(2))
pytestmark = pytest.mark.xdist_group("llama")


def problem(share: float) -> Problem:
    scene = view(replace(graph("llama"), lineage=Lineage()), None, BATCHES)
    budget = Budget(int(share * scene.graph.parameter_count()))
    draw = torch.Generator().manual_seed(1)
    kinds = frozenset({"mlp", "attention", "residual"})
    candidates = scene.groups.prunable(kinds)
    scores = {group.id: torch.rand(group.units, generator=draw) for group in candidates}
    return Problem(replace(scene, budget=budget, candidates=candidates), scores)


def rates(at: Problem, outside: float) -> Mapping[str, float]:
    return {group.id: 1.0 if group.block else outside for group in at.scene.candidates}


def test_a_model_is_judged_as_it_would_be_made(tmp_path: Path) -> None:
    at = problem(0.7)
    dense, counts = at.scene.graph, counts_of(at, rates(at, 0.5))
    close = measure_dense(dense, CLOSE)
    judge = WholeModels(dense, at, BATCHES, close, Journal(tmp_path / "log"), lambda *_: None)
    cut = apply(dense, select(at.scene.groups, counts, at.scores))
    made = LeastSquares(consumers="all").compensate(dense, cut, view(dense, None, BATCHES))
    wanted = 0.0
    for batch in CLOSE:
        with torch.no_grad():
            logs = [run_batch(each, batch)[0].log_softmax(-1) for each in (dense, made)]
        wanted += float((logs[0].exp() * (logs[0] - logs[1])).sum()) / sum(each.numel() for each in CLOSE)
    assert judge(counts) == pytest.approx(wanted, rel=1e-4)
    again = WholeModels(dense, at, BATCHES, close, Journal(tmp_path / "log"), lambda *_: pytest.fail("solved again"))
    assert again(counts) == judge(counts)


def test_the_best_comes_first_and_equal_ones_once() -> None:
    at = problem(0.7)
    wide, none, half = (rates(at, share) for share in (0.01, 0.0, 0.5))
    residual = next(group.id for group in at.scene.candidates if group.kind == "residual")

    def narrow(_: Problem, counts: Counts) -> float:
        return counts[residual]

    assert by_quality(at, (wide, none, half), narrow)[0] == half
    assert by_quality(at, (none, half), lambda _, counts: -counts[residual])[0] == none
    assert by_quality(at, (half, half), lambda *_: pytest.fail("there is nothing to choose")) == (half,)


def test_near_targets_are_compared_at_one_size() -> None:
    whole = problem(1.0).cost(problem(1.0).scene.groups.sizes())
    assert len({rounded(problem(share)) for share in (0.76, 0.77, 0.8)}) == 1
    assert rounded(problem(0.76)) == pytest.approx(0.8 * whole, abs=1)
    assert rounded(problem(0.97)) == problem(0.97).scene.budget.target, "all would be left at the next twentieth"
