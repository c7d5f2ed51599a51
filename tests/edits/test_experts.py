"""Experts: whatever the router says the function stays, and the result is cut, replayed and counted as any mixture."""

import random
from pathlib import Path

import pytest
import torch

from graphprune.analysis.analyse import analyze, analyze_axes
from graphprune.edits.editing import WITH_OPTIONS, edited, edited_groups
from graphprune.edits.experts import Experts, draw_router, find_mlp, scope_of
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import compose
from graphprune.ir.plan import Edit, Plan, read_plan
from graphprune.ir.verification import verify
from graphprune.rewriting.apply import apply
from graphprune.rewriting.masked import Masked
from tests.edits.test_editing import difference
from tests.support import oracle
from tests.support.families import families, graph, wide

# Gated; fused and gated; biases, matrices turned and rows viewed; attention beside the MLP.
TAKEN = ("llama", "phi3", "gpt2", "gpt_neox")
LLAMA = pytest.mark.xdist_group("llama")
KIND, UP = "experts{count=3,top=2,seed=0}", "model.layers.0.mlp.gate_proj.weight:0"


def upcycled(source: Graph, kind: str = KIND) -> tuple[tuple[Edit, ...], Graph]:
    edits = tuple(Edit(kind, group.id) for group in analyze(source).groups if group.kind == "mlp")
    return edits, edited(source, edits)


@pytest.mark.parametrize("name", families(TAKEN))
def test_equal_experts_compute_what_the_mlp_did_and_are_cut_as_those_of_any_mixture(name: str, tmp_path: Path) -> None:
    source = wide(name).graph
    edits, whole = upcycled(source)
    verify(whole)
    assert len(edits) == 2
    assert difference(source, whole) < 1e-9
    routers = {n: t for n, t in whole.tensors().items() if n.endswith("gate.weight")}
    for scale in (0.0, 50.0):
        other = whole.with_tensors({n: torch.nn.Parameter(scale * torch.randn_like(t)) for n, t in routers.items()})
        assert difference(source, other) < 1e-9
    costs = analyze(whole)
    assert costs.costs.parameters(costs.sizes()) == whole.parameter_count()
    assert [(g.units, g.chosen, g.locked) for g in costs.groups if g.kind == "experts"] == [(3, True, None)] * 2
    assert [g.units for g in costs.groups if g.kind == "mlp"] == [
        g.units for g in analyze(source).groups if g.kind == "mlp"
    ]
    assert [b.id for b in costs.branches] == [b.id for b in analyze(source).branches]
    assert edited_groups(source, Plan(edits=edits)).by_id().keys() == costs.by_id().keys()
    differ = {
        n: torch.nn.Parameter(t + 0.1 * torch.randn_like(t))
        for n, t in whole.tensors().items()
        if ".experts." in n or n in routers
    }
    apart = whole.with_tensors(differ)
    analysis, rng = analyze_axes(apart), random.Random(0)
    keep = {group.id: oracle.random_keep(group, rng) for group in analysis.groups.prunable()}
    oracle.check_cut(apart, analysis, Masked(apart, analysis), Plan(keep, (), "exact"), 1e-9)
    plan, path = compose(Plan(edits=edits), Plan(keep, (), "exact")), tmp_path / "plan.json"
    path.write_text(plan.to_json())
    again, cut = apply(source, read_plan(path)), apply(whole, Plan(keep, (), "exact"))
    assert str(again) == str(cut)
    assert all(torch.equal(tensor, cut.tensors()[n]) for n, tensor in again.tensors().items())


@LLAMA
def test_the_form_and_the_names_are_those_of_a_captured_mixture() -> None:
    _, whole = upcycled(graph("llama"))
    shapes = {
        n.removeprefix("model.layers.0.mlp."): tuple(t.shape) for n, t in whole.tensors().items() if ".0.mlp." in n
    }
    assert shapes == {
        "gate.weight": (3, 32),
        "experts.gate_proj": (3, 44, 32),
        "experts.up_proj": (3, 44, 32),
        "experts.down_proj": (3, 32, 44),
    }
    names = {node.target for node in whole.nodes} & {torch.ops.aten.topk.default, torch.ops.aten.bmm.default}
    assert len(names) == 2
    router = draw_router(UP, 32, Experts(3, 2, 0))
    torch.testing.assert_close(router @ router.T, 0.01 * torch.eye(3).double())
    assert not torch.equal(router, draw_router(UP, 32, Experts(3, 2, 1)))
    assert scope_of(["a.b.up.weight", "a.b.down.weight"]) == "a.b."
    assert scope_of(["up.weight", "down.weight"]) == ""


@LLAMA
def test_what_is_no_mlp_and_no_option_is_refused() -> None:
    source = graph("llama")
    assert set(WITH_OPTIONS) >= {"experts"}
    for kind, message in (
        ("experts", "cannot be read: experts"),
        ("experts{count=2,top=3,seed=0}", "top=3 is more than the 2 experts"),
        ("experts{count=2,top=1,seed=0,more=1}", "has no option 'more'"),
        ("expert{count=2}", "did you mean experts"),
    ):
        with pytest.raises(PlanError, match=message):
            edited(source, [Edit(kind, UP)])
    for id, message in (
        ("nothing:0", "is no group of this model"),
        ("model.embed_tokens.weight:1", "is not a weight, or a bias, of one linear call"),
        ("model.layers.0.self_attn.v_proj.weight:0/head_dim", "no experts can be made of"),
    ):
        with pytest.raises(PlanError, match=message):
            find_mlp(source, id)
    with pytest.raises(PlanError, match=r"gate_proj.weight:0 is no group"):
        edited(upcycled(source)[1], [Edit(KIND, UP)])
