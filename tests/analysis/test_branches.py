"""Residual branches: where they are, what they own, and what goes with them."""

import copy

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.analysis.branches import exclusive_nodes
from graphprune.frontend.source import capture
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from tests.support.families import analysis, families, graph, model

BRANCHES = {
    "llama": ["model.layers.0.self_attn", "model.layers.0.mlp", "model.layers.1.self_attn", "model.layers.1.mlp"],
    "gpt_neox": [f"gpt_neox.layers.{k}.{part}" for k in (0, 1) for part in ("mlp", "attention")],  # parallel
    "bert": [f"bert.encoder.layer.{k}.{part}output" for k in (0, 1) for part in ("attention.", "")],
    "cnn": ["outer"],
}


@pytest.mark.parametrize("name", families(BRANCHES))
def test_branches_of_a_model(name: str) -> None:
    assert [b.id for b in analysis(name).groups.branches] == BRANCHES[name]


@pytest.mark.xdist_group("llama")
def test_attention_owns_its_cache() -> None:
    found = {b.id: b.caches for b in analysis("llama").groups.branches}
    assert found["model.layers.1.self_attn"] == ("1.key", "1.value")
    assert found["model.layers.1.mlp"] == ()


@pytest.mark.xdist_group("llama")
def test_what_a_branch_owns_goes_with_it() -> None:
    """The norm before it too; the tables of the rotary embedding, which other layers read, stay."""
    captured = graph("llama")
    branch = analysis("llama").groups.branches[0]
    node = {n.name: n for n in captured.nodes}[branch.branch]
    owned = {str(n.target) for n in exclusive_nodes(captured, node) if n.op == "get_attr"}
    parts = ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    assert owned == {f"model.layers.0.{part}.weight" for part in parts}
    left = apply(captured, Plan({}, (branch.id,)))
    assert set(captured.parameters()) - set(left.parameters()) == owned
    assert "model.rotary_emb.inv_freq" in left.tensors()
    assert left.inputs == tuple(n for n in captured.inputs if not n.startswith("past_key_values.0"))
    assert left.outputs == tuple(n for n in captured.outputs if not n.startswith("present.0"))
    assert [b.id for b in analyze(left).branches] == [b.id for b in analysis("llama").groups.branches[1:]]


@pytest.mark.xdist_group("llama")
def test_without_any_branch_only_embedding_norm_and_head_are_left() -> None:
    captured = graph("llama")
    left = apply(captured, Plan({}, tuple(b.id for b in analysis("llama").groups.branches)))
    assert set(left.parameters()) == {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    assert left.outputs == ("logits",)
    ids = torch.tensor([[3, 4, 5]])
    feed = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "position_ids": torch.arange(3)[None]}
    tensors = {n: t.detach() for n, t in left.parameters().items()}
    hidden = torch.nn.functional.embedding(ids, tensors["model.embed_tokens.weight"])
    hidden = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6) * tensors["model.norm.weight"]
    torch.testing.assert_close(left(*(feed[n] for n in left.inputs))[0], hidden @ tensors["lm_head.weight"].T)


@pytest.mark.xdist_group("gpt_neox")
def test_parallel_branches_are_dropped_one_by_one() -> None:
    captured = graph("gpt_neox")
    for branch in analysis("gpt_neox").groups.branches:
        left = apply(captured, Plan({}, (branch.id,)))
        assert [b.id for b in analyze(left).branches] == [
            b.id for b in analysis("gpt_neox").groups.branches if b is not branch
        ]


@pytest.mark.xdist_group("mamba")
def test_a_stream_in_another_type_than_its_branches_is_still_one() -> None:
    half = capture(copy.deepcopy(model("mamba")).bfloat16())
    assert any(n.target is torch.ops.aten._to_copy.default for n in half.nodes)
    assert [b.id for b in analyze(half).branches] == ["backbone.layers.0.mixer", "backbone.layers.1.mixer"]
    assert [b.caches for b in analyze(half).branches] == [("0.conv", "0.recurrent"), ("1.conv", "1.recurrent")]
