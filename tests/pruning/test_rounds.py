"""The pruning loop: budgets are met, floors hold over all rounds, and one plan tells the whole story."""

from dataclasses import replace

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.budget.budgets import Budget
from graphprune.errors import BudgetError, UsageError
from graphprune.ir.plan import Plan
from graphprune.passes.allocation.global_ import Global
from graphprune.passes.allocation.uniform import Uniform
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.pruning.rounds import Pruned, Request, prune
from graphprune.pruning.stream_change import branch_influence
from graphprune.rewriting.apply import apply
from tests.ir.test_lineage import same_graph
from tests.support.families import analysis, graph

pytestmark = pytest.mark.xdist_group("llama")
BATCHES = (torch.randint(3, 60, (2, 8), generator=torch.Generator().manual_seed(0)),)


def request(share: float, **options: object) -> Request:
    target = int(graph("llama").parameter_count() * share)
    return replace(Request(Budget(target), Magnitude(), Global()), **options)  # type: ignore[arg-type]


def test_the_target_is_met_within_one_unit() -> None:
    pruned = prune(graph("llama"), request(0.7, kinds=("mlp",)), BATCHES)
    count, target = pruned.graph.parameter_count(), int(graph("llama").parameter_count() * 0.7)
    assert target - 3 * 32 < count <= target  # one MLP channel is three rows of the residual width
    assert set(pruned.plan.keep) <= {g.id for g in analysis("llama").groups.prunable(frozenset({"mlp"}))}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("allocation", [Uniform(), Global()])
def test_one_plan_makes_the_result_from_the_source(steps: int, allocation: object) -> None:
    source = graph("llama")
    printed = str(source)
    reports: list[tuple[str, int, int]] = []
    wanted = request(0.65, steps=steps, allocation=allocation, kinds=("mlp", "attention"))
    pruned = prune(source, wanted, BATCHES, lambda *entry: reports.append(entry))
    assert pruned.graph.parameter_count() <= wanted.budget.target
    same_graph(apply(source, pruned.plan), pruned.graph)
    assert str(source) == printed
    assert [r for r in reports if r[0] == "pruning"] == [("pruning", k, steps) for k in range(steps + 1)]


def test_floors_are_shares_of_the_source_in_every_round() -> None:
    pruned = prune(graph("llama"), request(0.7, steps=4, floor=0.5, kinds=("mlp", "attention", "residual")), BATCHES)
    groups = analysis("llama").groups
    assert all(2 * len(units) >= groups[id].units for id, units in pruned.plan.keep.items())


def test_a_model_below_the_target_stays_whole() -> None:
    pruned = prune(graph("llama"), request(1.0), BATCHES)
    assert pruned.plan == Plan()
    assert pruned.graph is graph("llama")


def test_a_target_out_of_reach_names_the_minimum() -> None:
    groups = analysis("llama").groups
    least = groups.costs.parameters({**groups.sizes(), **{g.id: 1 for g in groups.prunable(frozenset({"mlp"}))}})
    with pytest.raises(BudgetError, match=f"the least is {least:,} parameters with --prune mlp"):
        prune(graph("llama"), request(0.2, kinds=("mlp",)), BATCHES)


REFUSED = [("llama", "experts", "has no such groups"), ("opt", "other", "every such group is locked")]


@pytest.mark.parametrize(("name", "kind", "message"), REFUSED)
def test_kinds_that_can_not_be_cut_are_refused(name: str, kind: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prune(graph(name), request(0.9, kinds=(kind,)), BATCHES)


def test_auto_cuts_the_residual_width_where_it_must_and_says_so() -> None:
    plain = prune(graph("llama"), request(0.8), BATCHES)
    narrow = prune(graph("llama"), request(0.35), BATCHES)
    kinds = {graph_kind(id) for id in narrow.plan.keep}
    assert plain.notes == ()
    assert "residual" not in {graph_kind(id) for id in plain.plan.keep}
    assert "residual" in kinds
    assert any("residual width is cut too" in note for note in narrow.notes)


def graph_kind(id: str) -> str:
    return analysis("llama").groups[id].kind


def test_blocks_go_by_influence() -> None:
    pruned = prune(graph("llama"), request(0.75, kinds=("blocks",)), BATCHES)
    influence = branch_influence(graph("llama"), analysis("llama").groups, BATCHES)
    dropped = pruned.plan.dropped
    assert dropped == tuple(sorted(influence, key=lambda id: influence[id])[: len(dropped)])
    assert pruned.graph.parameter_count() <= int(graph("llama").parameter_count() * 0.75)
    assert pruned.notes == (f"dropped {len(dropped)} of 4 residual branches: {', '.join(dropped)}",)
    assert len(analyze(pruned.graph).branches) == 4 - len(dropped)


def test_blocks_leave_half_of_the_work_to_the_widths() -> None:
    pruned = prune(graph("llama"), request(0.5, kinds=("blocks", "mlp", "attention", "residual")), BATCHES)
    whole = graph("llama").parameter_count()
    costs, sizes = analysis("llama").groups.costs, analysis("llama").groups.sizes()
    assert costs.parameters(sizes | dict.fromkeys(pruned.plan.dropped, 0)) >= 0.75 * whole
    assert pruned.plan.keep
    assert pruned.graph.parameter_count() <= 0.5 * whole


def test_influence_is_zero_for_a_branch_that_adds_nothing() -> None:
    source = graph("llama")
    name = "model.layers.0.mlp.down_proj.weight"
    silent = source.with_tensors({name: torch.nn.Parameter(torch.zeros_like(source.parameters()[name]))})
    influence = branch_influence(silent, analysis("llama").groups, BATCHES)
    assert influence["model.layers.0.mlp"] == pytest.approx(0.0, abs=1e-6)
    assert all(0.0 <= value <= 2.0 for value in influence.values())
    assert sorted(influence.values())[1] > 1e-4


def test_blocks_first_then_widths() -> None:
    pruned: Pruned = prune(graph("llama"), request(0.6, kinds=("blocks", "residual")), BATCHES)
    assert pruned.plan.dropped
    assert pruned.graph.parameter_count() <= int(graph("llama").parameter_count() * 0.6)
    same_graph(apply(graph("llama"), pruned.plan), pruned.graph)
