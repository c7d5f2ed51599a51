"""Gates of 0 and 1 do what masked execution and the cut do; many masks at once do what each does by itself."""

import random

import pytest
import torch
from torch import Tensor

from graphprune.analysis.groups import Group
from graphprune.errors import PlanError
from graphprune.gates.gated import gate
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from tests.support import oracle, zoo
from tests.support.families import families, wide
from tests.support.gated import blocks, difference, gateable, gated, hard, random_plan, results

EVERY = pytest.mark.parametrize("name", families([*zoo.FAMILIES, *zoo.PAIRS]))
TOLERANCE = 1e-9
LLAMA = pytest.mark.xdist_group("llama")
# CLIP compares every row with every other.
MIXED = {"clip"}


def against_masked(name: str, plan: Plan, setting: int = 0) -> float:
    base = wide(name)
    inputs = oracle.example(base.graph, oracle.SETTINGS[setting])
    inputs = oracle.masked_inputs(base.graph, plan, base.analysis, inputs)
    with torch.no_grad():
        expected = results(base.graph.outputs, base.masked(plan, *inputs))
        found = results(base.graph.outputs, gated(name)(hard(name, plan.keep, plan.dropped), *inputs))
    return difference(expected, found)


@EVERY
def test_each_group_and_branch_by_itself_equals_the_masked_model(name: str) -> None:
    rng = random.Random(name)
    for group in gateable(name):
        assert against_masked(name, Plan({group.id: oracle.random_keep(group, rng)})) <= TOLERANCE, group.id
    for branch in blocks(name):
        assert against_masked(name, Plan({}, (branch.id,))) <= TOLERANCE, branch.id


@EVERY
def test_all_at_once_equals_the_masked_model(name: str) -> None:
    assert against_masked(name, random_plan(name, "all"), 1) <= TOLERANCE


@EVERY
def test_with_statistics_of_survivors_it_equals_the_cut(name: str) -> None:
    base, plan = wide(name), random_plan(name, "survivors", "survivors")
    model = gated(name, "survivors")
    given = oracle.example(base.graph, {**oracle.SETTINGS[0], "past": 0})
    given = oracle.masked_inputs(base.graph, plan, base.analysis, given)
    inputs = dict(zip(base.graph.inputs, given, strict=True))
    cut = apply(base.graph, plan, base.analysis)
    kept = [oracle.narrow(base.analysis, base.graph, plan, name, inputs[name]) for name in cut.inputs]
    with torch.no_grad():
        expected = results(cut.outputs, cut(*kept))
        found = results(base.graph.outputs, model(hard(name, plan.keep, plan.dropped), *inputs.values()))
    found = {n: oracle.narrow(base.analysis, base.graph, plan, n, found[n]) for n in expected}
    assert difference(expected, found) <= TOLERANCE


def repeated(inputs: list[Tensor], times: int) -> list[Tensor]:
    return [torch.cat([tensor] * times) for tensor in inputs]


@EVERY
def test_several_masks_at_once_equal_each_by_itself(name: str) -> None:
    if name in MIXED:
        pytest.skip("its rows are not told apart")
    base, masks = wide(name), 3
    candidates = [group for group in gateable(name) if group.kind != "vocabulary"]
    model = gated(name)
    generator = torch.Generator().manual_seed(1)
    values = {g.id: torch.rand(masks, g.units, dtype=torch.float64, generator=generator) for g in candidates}
    values = {id: value if not base.analysis.groups[id].chosen else value.round() for id, value in values.items()}
    inputs = oracle.example(base.graph, oracle.SETTINGS[0])
    batch = oracle.SETTINGS[0]["batch"]
    if any(len(tensor) != batch for tensor in inputs):
        pytest.skip("its inputs have rows of several kinds")
    with torch.no_grad():
        whole = results(base.graph.outputs, model(values, *repeated(inputs, masks)))
        for mask in range(masks):
            one = results(base.graph.outputs, model({id: value[mask] for id, value in values.items()}, *inputs))
            part = {n: value[mask * len(one[n]) : (mask + 1) * len(one[n])] for n, value in whole.items()}
            assert difference(one, part) <= TOLERANCE


@LLAMA
def test_factors_have_gradients_those_of_the_function() -> None:
    base, model = wide("llama"), gated("llama")
    inputs = oracle.example(base.graph, oracle.SETTINGS[0])
    some = [group.id for group in gateable("llama")] + [blocks("llama")[1].id]
    groups = {group.id: group for group in model.candidates}

    def loss(*values: Tensor) -> Tensor:
        return model(dict(zip(some, values, strict=True)), *inputs)[0].square().mean()

    start = tuple(torch.full((groups[id].units,), 0.9, dtype=torch.float64, requires_grad=True) for id in some)
    assert torch.autograd.gradcheck(loss, start, eps=1e-6, atol=1e-7)


@LLAMA
def test_what_does_not_fit_is_told() -> None:
    base, model = wide("llama"), gated("llama")
    inputs = oracle.example(base.graph, oracle.SETTINGS[0])
    mlp = next(group for group in gateable("llama") if group.kind == "mlp")
    with pytest.raises(PlanError, match="there is no gate nothing"):
        model({"nothing": torch.ones(3)}, *inputs)
    with pytest.raises(PlanError, match=r"takes factors for 44 units, not of shape \[3\]"):
        model({mlp.id: torch.ones(3)}, *inputs)
    with pytest.raises(PlanError, match="2 rows are not as many for each of 3 masks"):
        model({mlp.id: torch.ones(3, 44)}, *inputs)
    queries = next(g for g in base.analysis.groups.prunable() if g.id.endswith("q_proj.weight:0/head_dim"))
    with pytest.raises(PlanError, match=r"has no gate: at scaled_dot_product_attention\w* two computed values"):
        gate(base.graph, [queries])
    with pytest.raises(PlanError, match="is no residual branch"):
        gate(base.graph, [Group("nowhere", 1, (), (), "blocks", "", None, False, None)])


@pytest.mark.xdist_group("mixtral")
def test_experts_are_there_or_not() -> None:
    base, model = wide("mixtral"), gated("mixtral")
    inputs = oracle.example(base.graph, oracle.SETTINGS[0])
    experts = next(group for group in gateable("mixtral") if group.chosen)
    with pytest.raises(PlanError, match="is chosen from: a unit is there or not"):
        model({experts.id: torch.full((experts.units,), 0.5)}, *inputs)
