"""Composition: two plans one after the other are one plan, bit for bit."""

from dataclasses import replace

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import compose
from graphprune.ir.plan import Plan, Statistics
from graphprune.rewriting.apply import apply
from graphprune.rewriting.matching import match_groups
from tests.rewriting.test_apply import random_plan
from tests.support import oracle
from tests.support.families import analysis, families, graph, wide


def same_graph(one: Graph, other: Graph) -> None:
    assert (one.inputs, one.outputs) == (other.inputs, other.outputs)
    left, right = one.tensors(), other.tensors()
    assert list(left) == list(right)
    assert all(torch.equal(left[n], right[n]) and left[n].dtype == right[n].dtype for n in left)
    inputs = oracle.example(one, oracle.SETTINGS[1])
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(one(*inputs), other(*inputs), strict=True))


@pytest.mark.parametrize("name", families(("llama", "phi3", "gpt_neox", "cnn")))
def test_two_plans_are_one(name: str) -> None:
    source = graph(name)
    cuttable = [g for g in analysis(name).groups.prunable() if g.kind != "vocabulary" and g.units > 2]
    first = Plan({g.id: tuple(range(g.units))[1:] for g in cuttable})
    middle = apply(source, first)
    groups = analyze(middle)
    everything = random_plan(groups, 3)
    second = replace(everything, keep={id: u for id, u in everything.keep.items() if groups[id].kind != "vocabulary"})
    assert {g.id for g in groups.groups} <= {g.id for g in analysis(name).groups.groups}
    same_graph(apply(middle, second), apply(source, compose(first, second)))


@pytest.mark.xdist_group("llama")
def test_groups_are_found_again_where_a_neighbour_is_cut_to_one_unit() -> None:
    before, plan = analysis("llama").groups, Plan({"model.layers.0.self_attn.q_proj.weight:0/attention": (0,)})
    after = analyze(apply(graph("llama"), plan))
    matched = match_groups(before, plan, after)
    assert {before[matched[g.id]].kind for g in after.groups} == {g.kind for g in after.groups}
    assert matched["model.layers.0.self_attn.v_proj.weight:0"] == "model.layers.0.self_attn.v_proj.weight:0/head_dim"
    assert len(set(matched.values())) == len(matched)


@pytest.mark.xdist_group("llama")
@pytest.mark.parametrize("first", ["model.layers.0.mlp", "model.layers.0.self_attn"])
def test_a_branch_dropped_first_or_last(first: str) -> None:
    source, cut = graph("llama"), Plan({"model.layers.1.mlp.gate_proj.weight:0": (0, 4, 40)})
    drop = Plan({}, (first,))
    together = apply(source, compose(drop, cut))
    same_graph(apply(apply(source, drop), cut), together)
    same_graph(apply(apply(source, cut), drop), together)


def test_units_of_the_second_plan_are_numbered_in_the_first() -> None:
    composed = compose(Plan({"a": (1, 4, 6), "b": (0,)}, ("x",)), Plan({"a": (0, 2), "c": (5,)}, ("y", "x")))
    assert composed == Plan({"a": (1, 6), "b": (0,), "c": (5,)}, ("x", "y"))


@pytest.mark.parametrize(("one", "other"), [("survivors", "exact"), ("exact", "survivors")])
def test_statistics_must_agree_where_both_cut(one: Statistics, other: Statistics) -> None:
    with pytest.raises(PlanError, match="different norm statistics"):
        compose(Plan({"a": (0,)}, (), one), Plan({"a": (0,)}, (), other))
    assert compose(Plan({}, ("x",), one), Plan({"a": (0,)}, (), other)).statistics == other
    assert compose(Plan({"a": (0,)}, (), one), Plan({}, ("x",), other)).statistics == one


@pytest.mark.parametrize("family", [pytest.param(f, marks=pytest.mark.xdist_group(f)) for f in ("gpt2", "llama")])
def test_exact_statistics_stay_exact_over_two_cuts(family: str) -> None:
    whole = wide(family)
    residual = next(g for g in whole.analysis.groups.groups if g.kind == "residual")
    first, second = (Plan({residual.id: tuple(units)}, (), "exact") for units in (range(30), range(3, 25)))
    source = whole.graph
    once, twice = apply(source, compose(first, second)), apply(apply(source, first), second)
    inputs = oracle.example(once, {"batch": 2, "sequence": 4, "past": 0})
    for wanted, found in zip(once(*inputs), twice(*inputs), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
