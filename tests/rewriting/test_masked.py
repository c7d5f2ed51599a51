"""Masked execution: plans are switched from call to call, without another capture."""

import warnings

import pytest
import torch

from graphprune.ir.plan import Plan
from graphprune.rewriting.masked import masked
from tests.support import oracle
from tests.support.families import graph, wide

pytestmark = pytest.mark.xdist_group("llama")
MLP, BRANCH = "model.layers.0.mlp.gate_proj.weight:0", "model.layers.1.self_attn"
PLANS = (Plan({MLP: (0, 5, 9)}), Plan({}, (BRANCH,)), Plan(), Plan({MLP: (1,)}, (BRANCH,)))


def test_plans_are_switched_from_call_to_call() -> None:
    run, inputs = masked(graph("llama")), oracle.example(graph("llama"), oracle.SETTINGS[1])
    with torch.no_grad():
        first = [run(plan, *inputs)[0] for plan in PLANS]
        again = [run(plan, *inputs)[0] for plan in reversed(PLANS)][::-1]
        whole = graph("llama")(*inputs)[0]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert torch.equal(first[2], whole)
    assert not any(torch.allclose(first[k], whole) for k in (0, 1, 3))


def test_masking_leaves_the_graph_alone() -> None:
    before, tensors = str(graph("llama")), {n: t.detach().clone() for n, t in graph("llama").tensors().items()}
    with torch.no_grad():
        masked(graph("llama"))(PLANS[3], *oracle.example(graph("llama"), oracle.SETTINGS[0]))
    assert str(graph("llama")) == before
    assert all(torch.equal(t, tensors[n]) for n, t in graph("llama").tensors().items())


def test_outputs_keep_the_full_contract() -> None:
    """Caches stay at full width; what is removed is zero in them, and a dropped branch still writes its own."""
    base = wide("llama")
    heads = "model.layers.0.self_attn.q_proj.weight:0/attention"
    with torch.no_grad():
        inputs = oracle.example(base.graph, oracle.SETTINGS[0])
        found = dict(zip(base.graph.outputs, base.masked(Plan({heads: (1,)}, (BRANCH,)), *inputs), strict=True))
    assert found["present.0.key"].shape[1] == found["present.1.key"].shape[1] == 2
    assert not found["present.0.key"][:, 0].any()
    assert found["present.0.key"][:, 1].any()
    assert found["present.1.value"].any()


def test_masks_are_ones_and_zeros_that_broadcast() -> None:
    base = wide("llama")
    masks = base.masked.masks(PLANS[0])
    assert set(masks) == {f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    assert masks["model.layers.0.mlp.down_proj.weight"].shape == (1, 44)
    assert masks["model.layers.0.mlp.gate_proj.weight"].sum() == 3
    residual = "model.embed_tokens.weight:1"
    both = base.masked.masks(Plan({MLP: (0, 5), residual: (3,)}))["model.layers.0.mlp.up_proj.weight"]
    assert both.shape == (44, 32)
    assert both.nonzero().tolist() == [[0, 3], [5, 3]]


def test_gradients_flow_through_a_mask() -> None:
    base, inputs = wide("llama"), oracle.example(wide("llama").graph, oracle.SETTINGS[0])
    weight = base.graph.parameters()["model.layers.0.mlp.gate_proj.weight"]
    (gradient,) = torch.autograd.grad(base.masked(PLANS[0], *inputs)[0].square().sum(), [weight])
    assert sorted(gradient.abs().sum(1).nonzero().flatten().tolist()) == [0, 5, 9]


def test_nothing_is_warned_about() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert masked(graph("llama")).gated is not None
