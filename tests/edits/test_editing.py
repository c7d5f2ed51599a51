"""Every edit, on every family that takes it: the function stays, a cut is masking, and a plan makes it again."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphprune.analysis.analyse import analyze, analyze_axes
from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.edits.editing import KINDS, WITH_OPTIONS, edited, edited_groups
from graphprune.edits.segments import segment_edits, segments
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import compose
from graphprune.ir.plan import Edit, Plan, read_plan
from graphprune.ir.verification import verify
from graphprune.rewriting.apply import apply
from graphprune.rewriting.masked import Masked
from tests.support import oracle
from tests.support.families import families, graph, wide

# Grouped queries, fused projections, layer norms with biases, tables of positions, parallel branches, experts, states.
TAKEN = ("llama", "phi3", "gpt2", "gpt_neox", "opt", "falcon", "mixtral", "mamba")
BIASED = {"llama": "model.layers.0.mlp.down_proj.weight", "falcon": "transformer.h.0.mlp.dense_4h_to_h.weight"}
LLAMA = pytest.mark.xdist_group("llama")


def difference(one: Graph, other: Graph) -> float:
    found = 0.0
    for setting in oracle.SETTINGS:
        inputs = oracle.example(one, setting)
        with torch.no_grad():
            pairs = zip(one(*inputs), other(*inputs), strict=True)
            found = max(found, *(float((a - b).abs().max()) for a, b in pairs))
    return found


def all_edits(name: str) -> tuple[Edit, ...]:
    bias = (Edit("bias", BIASED[name]),) if name in BIASED else ()
    beside = [Edit("side-branch{rank=3}", call.weight) for call in find_linear_calls(graph(name))[:-1]]
    return (*bias, *beside, *segment_edits(graph(name)))


@pytest.mark.parametrize("name", families(TAKEN))
def test_an_edited_model_computes_what_the_source_does_and_is_cut_as_any(name: str, tmp_path: Path) -> None:
    source, edits = wide(name).graph, all_edits(name)
    printed, whole = str(source), source
    for kind in dict.fromkeys(edit.kind for edit in edits):
        whole = edited(whole, [edit for edit in edits if edit.kind == kind])
        verify(whole)
        assert difference(source, whole) < 1e-9, kind
        costs = analyze(whole)
        assert costs.costs.parameters(costs.sizes()) == whole.parameter_count()
    assert str(source) == printed
    assert len(segments(whole)) == 1 + sum(edit.kind == "stream-map" for edit in edits)
    assert [b.id for b in analyze(whole).branches] == [b.id for b in analyze(source).branches]
    assert edited_groups(source, Plan(edits=edits)).by_id().keys() == analyze(whole).by_id().keys()
    analysis, rng = analyze_axes(whole), random.Random(0)
    keep = {group.id: oracle.random_keep(group, rng) for group in analysis.groups.prunable()}
    plan = Plan(keep, (analysis.groups.branches[-1].id,), "exact")
    oracle.check_cut(whole, analysis, Masked(whole, analysis), plan, 1e-9)
    path = tmp_path / "plan.json"
    path.write_text(compose(Plan(edits=edits), plan).to_json())
    again, cut = apply(source, read_plan(path)), apply(apply(source, Plan(edits=edits)), plan)
    assert str(again) == str(cut)
    assert all(torch.equal(tensor, cut.tensors()[name]) for name, tensor in again.tensors().items())
    assert again.lineage.plan == cut.lineage.plan


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(
            "gemma2",
            r"post_attention_layernorm.weight cannot be folded .* pow_tensor_scalar_2 \(pow",
            marks=pytest.mark.xdist_group("gemma2"),
        ),
        pytest.param(
            "bloom",
            r"word_embeddings_layernorm.weight cannot be folded .* \(layer_norm\)",
            marks=pytest.mark.xdist_group("bloom"),
        ),
    ],
)
def test_what_stands_in_the_way_is_named(name: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        segment_edits(graph(name))


@LLAMA
def test_kinds_that_nobody_knows_and_edits_after_a_cut_are_refused() -> None:
    assert set(KINDS) == {"bias", "untie", "fold-norm", "center", "stream-map"}
    assert set(WITH_OPTIONS) == {"experts", "grow", "prompt", "side-branch"}
    with pytest.raises(PlanError, match="an edit 'untied', which this version does not know; did you mean untie"):
        edited(graph("llama"), [Edit("untied", "x")])
    cut = apply(graph("llama"), Plan({"model.layers.0.mlp.gate_proj.weight:0": (0, 1)}))
    with pytest.raises(
        PlanError, match=r"fold-norm model.norm.weight would be .*; make all edits before anything is cut"
    ):
        apply(cut, Plan(edits=(Edit("fold-norm", "model.norm.weight"),)))
    tokens, late = Plan({"model.embed_tokens.weight:0": (0, 1)}), Plan(edits=(Edit("untie", "x"),))
    assert compose(tokens, late, apart=True) == replace(tokens, edits=late.edits)
    weight = "model.layers.0.mlp.down_proj.weight"
    for late in (Edit("bias", weight), Edit("side-branch{rank=3}", weight)):
        assert apply(cut, Plan(edits=(late,))).lineage.plan.edits == (late,)


def test_plans_of_old_name_their_biases(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"format": 1, "statistics": "exact", "dropped": [], "keep": {}, "biases": ["a.weight"]}')
    plan = read_plan(path)
    assert plan == Plan(statistics="exact", edits=(Edit("bias", "a.weight"),))
    path.write_text(plan.to_json())
    assert read_plan(path) == plan
    assert '"format": 2' in path.read_text()
