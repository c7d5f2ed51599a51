"""The pruning loop: budgets are met, floors hold over all rounds, and one plan tells the whole story."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.analysis.layers import find_layers
from graphprune.budget.budgets import Budget
from graphprune.errors import BudgetError, UsageError
from graphprune.ir.lineage import Lineage
from graphprune.ir.plan import Plan
from graphprune.passes.allocation.adaptive import Adaptive
from graphprune.passes.allocation.global_ import Global
from graphprune.passes.allocation.knapsack import Knapsack
from graphprune.passes.allocation.uniform import Uniform
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.passes.importance.random_ import Random
from graphprune.pruning.interfaces import Allocation, Allotment, Scene
from graphprune.pruning.rounds import Pruned, Request, Surroundings, prune
from graphprune.pruning.signals.stream_change import branch_influence
from graphprune.rewriting.apply import apply
from tests.ir.test_lineage import same_graph
from tests.support.families import analysis, graph

pytestmark = pytest.mark.xdist_group("llama")
HEADS = "model.layers.0.self_attn.q_proj.weight:0/attention"
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
    pruned = prune(source, wanted, BATCHES, Surroundings(report=lambda *entry: reports.append(entry)))
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
    wanted = request(0.75, kinds=("blocks",), allocation=Global("unit", "none"))
    pruned = prune(graph("llama"), wanted, BATCHES)
    influence = branch_influence(graph("llama"), analysis("llama").groups, BATCHES)
    dropped = pruned.plan.dropped
    assert set(dropped) == set(sorted(influence, key=lambda id: influence[id])[: len(dropped)])
    assert pruned.graph.parameter_count() <= int(graph("llama").parameter_count() * 0.75)
    assert pruned.notes == (f"dropped {len(dropped)} of 4 residual branches: {', '.join(dropped)}",)
    assert len(analyze(pruned.graph).branches) == 4 - len(dropped)


@pytest.mark.parametrize("allocation", [Uniform(), Global(), Adaptive(), Knapsack(levels=2, samples=4)])
@pytest.mark.parametrize("kind", ["blocks", "layers"])
@pytest.mark.parametrize("steps", [1, 3])
def test_blocks_are_candidates_like_others(allocation: Allocation, kind: str, steps: int) -> None:
    """Every allocation chooses among blocks and widths at once, within the budget, and one plan tells it."""
    source, whole = graph("llama"), graph("llama").parameter_count()
    wanted = request(0.5, kinds=(kind, "mlp", "attention", "residual"), allocation=allocation, steps=steps)
    pruned = prune(source, wanted, BATCHES)
    left = analyze(pruned.graph)
    units = [left.costs.parameters.slope(left.sizes(), g.id) for g in left.prunable(frozenset(wanted.kinds))]
    # In rounds, what the last one found full stays so: only some width's unit is left over.
    unit = (min if steps == 1 else max)(units, default=whole)
    assert 0.5 * whole - unit < pruned.graph.parameter_count() <= 0.5 * whole
    by_id = analysis("llama").groups.by_id()
    assert pruned.plan.keep or pruned.plan.dropped
    if kind == "layers":
        layers = [{branch.id for branch in layer} for layer in find_layers(analysis("llama").groups)]
        assert all(layer <= set(pruned.plan.dropped) or not layer & set(pruned.plan.dropped) for layer in layers)
    if steps == 1:
        assert not {by_id[id].block for id in pruned.plan.keep} & set(pruned.plan.dropped)
    same_graph(apply(source, pruned.plan), pruned.graph)


def test_budget_over_blocks_is_met_within_one_unit_against_brute_force() -> None:
    """Of all choices of branches the one that `global{none}` makes is the order of scores, cut at the target."""
    source, groups = graph("llama"), analysis("llama").groups
    for share in (0.9, 0.75, 0.6, 0.5):
        wanted = request(share, kinds=("blocks",), allocation=Global("unit", "none"), importance=Random())
        left = prune(source, wanted, BATCHES).graph.parameter_count()
        ids = [branch.id for branch in groups.branches]
        cost = groups.costs.parameters
        sums = {
            chosen: cost(groups.sizes() | dict.fromkeys(chosen, 0))
            for n in range(len(ids) + 1)
            for chosen in combinations(ids, n)
        }
        fitting = [chosen for chosen, size in sums.items() if size <= wanted.budget.target]
        found = next(chosen for chosen, size in sums.items() if size == left and chosen in fitting)
        smaller = [tuple(i for i in found if i != one) for one in found]
        assert all(sums[fewer] > wanted.budget.target for fewer in smaller)


def test_scope_and_protected_layers_stay_whole() -> None:
    source = graph("llama")
    first, last = (layer[0].id.rpartition(".")[0] for layer in find_layers(analysis("llama").groups))
    for options, held in (
        ({"protect": (1, 0)}, first),
        ({"protect": (0, 1)}, last),
        ({"scope": r"layers\.1\."}, first),
    ):
        for kinds in (("mlp", "attention"), ("mlp", "blocks"), ("mlp", "layers")):
            pruned = prune(source, request(0.9, kinds=kinds, **options), BATCHES)
            named = [*pruned.plan.keep, *pruned.plan.dropped]
            assert named
            assert not [id for id in named if id.startswith(held)]
    with pytest.raises(UsageError, match=r"--protect 1,1: the model has 2 layers"):
        prune(source, request(0.9, protect=(1, 1)), BATCHES)
    with pytest.raises(UsageError, match="--scope vision: no module"):
        prune(source, request(0.9, scope="vision"), BATCHES)


def test_protected_layers_are_those_of_the_source_in_every_stage() -> None:
    source = graph("llama")
    half = prune(source, request(0.9, kinds=("mlp",), protect=(1, 0)), BATCHES)
    rest = prune(
        half.graph, request(0.8, kinds=("mlp", "blocks"), protect=(1, 0)), BATCHES, Surroundings(source=source)
    )
    assert not [id for id in (*rest.plan.keep, *rest.plan.dropped) if "layers.0" in id]


@pytest.mark.parametrize("steps", [1, 3])
def test_a_kind_keeps_its_share(steps: int) -> None:
    source, by_id = graph("llama"), analysis("llama").groups.by_id()
    budget = Budget(int(0.6 * source.parameter_count()), within={"mlp": 0.8})
    wanted = replace(request(0.6, kinds=("mlp", "attention", "residual"), steps=steps), budget=budget)
    kept = analyze(prune(source, wanted, BATCHES).graph)
    units = [(group.units, by_id[group.id].units) for group in kept.groups if group.kind == "mlp"]
    assert sum(now for now, _ in units) >= 0.8 * sum(whole for _, whole in units)
    with pytest.raises(BudgetError, match="--within"):
        prune(source, replace(wanted, kinds=("mlp", "attention")), BATCHES)


def test_what_a_method_remembers_is_kept_under_the_ids_of_the_source() -> None:
    """Also where an earlier stage has changed the ids: the roots of a scene are those of the whole lineage."""
    renamed = replace(graph("llama"), lineage=Lineage(ids={HEADS: "before"}))
    seen: list[str] = []

    @dataclass(frozen=True)
    class Looking(Allocation):
        name: ClassVar[str] = "looking"

        def keep(self, scene: Scene, scores: Mapping[str, Tensor]) -> Allotment:
            seen.extend(scene.root(group.id) for group in scene.candidates)
            return Uniform().keep(scene, scores)

    prune(renamed, request(0.85, kinds=("attention",), allocation=Looking()), BATCHES)
    assert "before" in seen
    assert HEADS not in seen


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
