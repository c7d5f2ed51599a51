"""Routing in training: the balancing loss and its gradient, choices by auction, and experts that learn to differ."""

from dataclasses import replace

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.edits.editing import edited
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Edit
from graphprune.running.forms.picked import multiply_picked
from graphprune.running.inputs import decoder_inputs
from graphprune.training.objective.routing import balanced, balancing_loss, find_routers, routed_form, sell
from graphprune.training.options import TrainOptions
from graphprune.training.train import train
from tests.support.rows import Rows
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=6, rows=4, lr=1e-2, device="cpu")


def mixture(top: int) -> Graph:
    source = tiny_graph()
    ids = [group.id for group in analyze(source).groups if group.kind == "mlp"]
    return edited(source, [Edit(f"experts{{count=4,top={top},seed=0}}", id) for id in ids])


def test_the_balancing_loss_is_one_where_experts_are_used_evenly_and_only_its_gradient_is_added() -> None:
    logits = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)
    parts = logits.softmax(-1)
    shares = torch.zeros(4).double()
    for row in parts:
        shares[row.topk(2).indices] += 1 / 24
    wanted = 4 * (shares * parts.mean(0)).sum()
    torch.testing.assert_close(balancing_loss(parts, 2, True), wanted)
    torch.testing.assert_close(balancing_loss(logits, 2, False), wanted)
    torch.testing.assert_close(balancing_loss(torch.eye(4), 1, True), torch.tensor(1.0))
    known = balanced(parts, 2, True, 0.5)
    assert torch.equal(known, parts)
    (found,) = torch.autograd.grad(7 * known.sum(), logits)
    (alone,) = torch.autograd.grad(0.5 * balancing_loss(logits, 2, False), logits)
    torch.testing.assert_close(found, alone, atol=1e-6, rtol=1e-5)  # of the sum of probabilities there is none


def test_an_auction_gives_each_expert_as_many_tokens_and_leaves_equal_experts_as_they_are() -> None:
    graph = mixture(top=1)
    form = routed_form(graph, 0.0, "auction")
    ids = Rows().rows(0, 2)[0]
    inputs = decoder_inputs(graph, ids)
    with torch.no_grad():
        torch.testing.assert_close(form(*inputs)[0], tiny_graph()(*decoder_inputs(tiny_graph(), ids))[0])
    values, picks = sell(torch.rand(24, 4))
    assert torch.bincount(picks.flatten()).tolist() == [6] * 4
    assert values.shape == picks.shape == (24, 1)


@pytest.mark.parametrize(("top", "changes"), [(2, {"balance": 0.1}), (1, {"routing": "auction"}), (2, {})])
def test_experts_learn_and_routers_are_balanced(top: int, changes: dict[str, object]) -> None:
    graph = mixture(top)
    trained = train(graph, replace(OPTIONS, **changes), Rows()).graph  # type: ignore[arg-type]
    again = train(graph, replace(OPTIONS, **changes), Rows()).graph  # type: ignore[arg-type]
    stack, router = "model.layers.0.mlp.experts.down_proj", "model.layers.0.mlp.gate.weight"
    assert all(torch.equal(t, again.tensors()[name]) for name, t in trained.tensors().items())
    first, second = trained.tensors()[stack][:2]
    assert not torch.equal(first, second)
    moved = not torch.allclose(trained.tensors()[router], graph.tensors()[router], atol=1e-6)
    assert moved == (top == 2)
    assert multiply_picked(trained.tensors()[stack], torch.tensor([1]), torch.ones(1, 24, 1)).shape == (1, 32, 1)


def test_what_has_no_router_and_what_cannot_look_at_one_is_refused() -> None:
    with pytest.raises(UsageError, match=r"balance=0.1 is for mixtures of experts, and this model has no router"):
        find_routers(tiny_graph(), "balance=0.1")
    assert routed_form(tiny_graph(), 0.0, "own") is tiny_graph()
    with pytest.raises(UsageError, match="routing=auction gives each token one expert"):
        routed_form(mixture(top=2), 0.0, "auction")
    with pytest.raises(UsageError, match=r"balance=0\.1 is for routers that are trained"):
        routed_form(mixture(top=1), 0.1, "own")
    for changes in ({"compile": True}, {"shard": True}, {"precision": "fp16"}):
        with pytest.raises(UsageError, match="balance"):
            replace(OPTIONS, balance=0.1, **changes)  # type: ignore[arg-type]
