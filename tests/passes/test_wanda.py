"""Wanda-sp and magnitude-sp against a few lines on what hooks saw, and what leaves their order as it is."""

import copy
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Group
from graphprune.budget.budgets import Budget, cost_of
from graphprune.errors import UsageError
from graphprune.passes.allocation.uniform import Uniform
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.passes.importance.wanda import Wanda
from graphprune.pruning.activations.layer_by_layer import stages
from graphprune.pruning.activations.unit_inputs import find_unit_inputs
from graphprune.pruning.interfaces import Scene, view
from graphprune.pruning.selection import select
from graphprune.pruning.shares import even_counts, within_reach
from graphprune.rewriting.apply import apply
from tests.passes.test_fluctuation import READ_BY, groups_of
from tests.support.families import analysis, families, graph, model
from tests.support.seen_inputs import IDS, layer_inputs, weight_of


@pytest.mark.parametrize("family", families(["llama", "qwen3"]))
def test_the_published_formulas(family: str) -> None:
    scene = view(graph(family), groups_of(family), IDS.split([2, 4]))
    mean, whole = Wanda().score(scene), Wanda("sum").score(scene)
    columns = {p: Magnitude(p, of="columns").score(scene) for p in (1, 2)}
    seen = layer_inputs(family, tuple(READ_BY.values()))
    for group in groups_of(family):
        layer = f"layers.{group.id.split('layers.')[1].split('.')[0]}."
        name = next(n for n in seen if layer in n and n.endswith(READ_BY[group.kind]))
        x, weight = seen[name].flatten(0, 1), weight_of(family, name)
        each = weight.abs() * x.square().mean(0).sqrt()
        for found, expected in (
            (mean, each.mean(0)),
            (whole, each.sum(0)),
            (columns[1], weight.abs().sum(0)),
            (columns[2], weight.square().sum(0).sqrt()),
        ):
            units = expected.view(group.units, -1).sum(1)
            torch.testing.assert_close(found[group.id].double(), units, rtol=1e-4, atol=1e-9)


def test_a_rescaling_that_leaves_the_model_as_it_is_leaves_the_scores() -> None:
    plain, factor = graph("llama"), 300.0
    up, down = (f"model.layers.0.mlp.{side}_proj.weight" for side in ("up", "down"))
    weights = {name: plain.parameters()[name].detach().clone() for name in (up, down)}
    weights[up][[1, 5]] *= factor
    weights[down][:, [1, 5]] /= factor
    scaled = plain.with_tensors({name: torch.nn.Parameter(weight) for name, weight in weights.items()})
    before, after = (Wanda().score(view(one, groups_of("llama"), [IDS])) for one in (plain, scaled))
    assert all(torch.allclose(before[id], after[id], rtol=1e-4) for id in before)


def test_units_that_no_linear_call_reads_are_refused() -> None:
    state = [g for g in analysis("mamba").groups.prunable() if g.id.endswith("x_proj.weight:0/mlp")]
    with pytest.raises(UsageError, match="no linear call reads it; use taylor"):
        Wanda().score(view(graph("mamba"), state, [IDS]))
    with pytest.raises(UsageError, match="--data"):
        Wanda().score(view(graph("llama")))


SEQUENTIAL = Wanda(sequential=True)


def scene_of(family: str, groups: list[Group], share: float = 0.6, splits: tuple[int, ...] = (2, 4)) -> Scene:
    whole = analysis(family).groups
    size = cost_of(whole, Budget(1))(whole.sizes())
    return view(graph(family), groups, IDS.split(splits), budget=Budget(int(size * share)))


def layer_of(family: str, group: Group) -> int | None:
    """The layer that a group is in, None for one that spans several."""
    return next((b.layer for b in analysis(family).groups.branches if b.id == group.block), None)


def by_hand(family: str, layer: int, changed: object = None) -> dict[str, Tensor]:
    """The scores of a layer's inputs, by the name of the linear layer that reads them."""
    seen = layer_inputs(family, tuple(READ_BY.values()), changed=changed)
    mine = {name: x.flatten(0, 1) for name, x in seen.items() if f"layers.{layer}." in name}
    return {name: (weight_of(family, name).abs() * x.square().mean(0).sqrt()).mean(0) for name, x in mine.items()}


def to_inputs(family: str, layer: int, scores: Mapping[str, Tensor], names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The scores of a layer's groups by the name of what reads them."""
    groups = [group for group in groups_of(family) if layer_of(family, group) == layer]
    return {next(name for name in names if name.endswith(READ_BY[g.kind])): scores[g.id] for g in groups}


@pytest.mark.parametrize("family", families(["llama", "qwen3"]))
def test_a_layer_is_measured_on_what_is_left_of_the_one_before(family: str) -> None:
    scene = scene_of(family, groups_of(family))
    found, counts = SEQUENTIAL.score(scene), Uniform().keep(scene, {}).counts
    cut, first = copy.deepcopy(model(family)), by_hand(family, 0)
    for group in (g for g in groups_of(family) if layer_of(family, g) == 0):
        name = next(n for n in first if n.endswith(READ_BY[group.kind]))
        units = first[name].view(group.units, -1)
        lost = units.sum(1).argsort()[: group.units - counts[group.id]]
        assert len(lost), "something of each goes"
        with torch.no_grad():
            weight = cut.get_submodule(name).weight
            weight.view(len(weight), group.units, -1)[:, lost] = 0
    for layer, changed in ((0, None), (1, cut)):
        expected = by_hand(family, layer, changed)
        for name, scores in to_inputs(family, layer, found, expected).items():
            torch.testing.assert_close(scores.double(), expected[name].view(len(scores), -1).sum(1), rtol=1e-4, atol=0)


# Fused and grouped calls, stacked experts, units that two calls read, states, two branches of one layer.
@pytest.mark.parametrize("family", families(["gpt2", "phi3", "mixtral", "mamba", "falcon_h1", "gemma2"]))
def test_what_is_measured_is_the_model_that_a_plan_would_leave(family: str) -> None:
    groups, readable = analysis(family).groups, []
    for group in groups.prunable(frozenset({"mlp", "attention", "query", "residual"})):
        try:
            find_unit_inputs(graph(family), [group], "wanda")
        except UsageError:
            continue
        readable.append(group)
    scene = scene_of(family, readable)
    found, counts, plain = SEQUENTIAL.score(scene), even_counts(scene, {}), Wanda().score(scene)
    assert found.keys() == plain.keys()
    within = [group for group in readable if layer_of(family, group) is not None]
    first = [group for group in within if layer_of(family, group) == 0]
    assert all(torch.equal(found[g.id], plain[g.id]) for g in first)
    plan = replace(select(groups, {g.id: counts[g.id] for g in first}, found), statistics="exact")
    cut = apply(graph(family), plan)
    left = {cut.lineage.root(group.id): group for group in analyze(cut).groups}
    later = {group.id: left[group.id] for group in within if group not in first}
    again = Wanda().score(view(cut, list(later.values()), scene.batches))
    for id, group in later.items():
        torch.testing.assert_close(found[id], again[group.id], rtol=1e-4, atol=0)
        assert not torch.allclose(found[id], plain[id], rtol=1e-3), "what the first layer lost is to be seen"


def test_the_split_into_batches_does_not_matter_layer_by_layer() -> None:
    one, many = (SEQUENTIAL.score(scene_of("llama", groups_of("llama"), 0.6, split)) for split in ((6,), (1, 2, 3)))
    assert all(torch.allclose(one[id], many[id], rtol=1e-5) for id in one)


def test_layers_go_one_after_another_and_what_spans_them_goes_along() -> None:
    groups = analysis("llama").groups
    candidates = groups.prunable(frozenset({"mlp", "attention", "residual"}))
    found = stages(graph("llama"), groups, find_unit_inputs(graph("llama"), candidates, "wanda"))
    assert [[layer_of("llama", g) for g in stage.groups] for stage in found] == [[0, 0], [1, 1]]
    assert all(one.first <= one.last for one in found)
    assert found[0].last < found[1].first
    # Two towers that run by turns: neither can be cut before the other is measured.
    mixed = replace(groups, branches=tuple(replace(b, layer=n % 2) for n, b in enumerate(groups.branches)))
    together = stages(graph("llama"), mixed, find_unit_inputs(graph("llama"), candidates, "wanda"))
    assert [len(stage.groups) for stage in together] == [4]
    assert (together[0].first, together[0].last) == (found[0].first, found[1].last)


def test_a_target_that_blocks_must_help_to_reach_leaves_the_least_of_each_layer() -> None:
    scene = scene_of("llama", groups_of("llama"), share=0.01)
    assert set(even_counts(within_reach(scene), {}).values()) == {1}
    assert SEQUENTIAL.score(scene).keys() == {group.id for group in groups_of("llama")}
    assert SEQUENTIAL.score(scene_of("llama", [])) == {}
