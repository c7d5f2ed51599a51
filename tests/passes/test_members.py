"""LLM-Pruner's scores against a few lines of plain autograd in float64, and how the members of a group are reduced."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Group
from graphprune.budget.budgets import Budget
from graphprune.errors import UsageError
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.passes.allocation.uniform import Uniform
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.passes.importance.order import Order
from graphprune.passes.importance.taylor import Taylor
from graphprune.pruning.interfaces import view
from graphprune.pruning.rounds import Request, prune
from graphprune.pruning.signals.unit_sums import reduce_members
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import decoder_inputs
from tests.support.oracle import analyses

pytestmark = pytest.mark.xdist_group("members")
HEAD, REPEATS, KV = 4, 2, 2
REDUCTIONS = ("sum", "mean", "max", "prod", "first", "last")
MODES = {
    "vectorize": Taylor(aggregate="vector", gradients="batch"),
    "param_first": Taylor(aggregate="element", gradients="batch"),
    "param_second": Taylor(aggregate="element", order="second"),
    "param_mix": Taylor(aggregate="element", order="mixed"),
    "vectorize_second": Taylor(aggregate="vector", order="second"),
    "vectorize_mix": Taylor(aggregate="vector", order="mixed"),
}


@pytest.fixture(scope="module")
def network() -> Any:
    """A Llama of two layers in float64, with grouped queries."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=KV * REPEATS,
        num_key_value_heads=KV,
        head_dim=HEAD,
        max_position_embeddings=32,
    )
    return transformers.LlamaForCausalLM(config).double().eval()


@pytest.fixture(scope="module")
def graph(network: Any) -> Graph:
    """The same in float64 throughout: norms and rotations of the class are in float32."""
    return analyses(capture(network))[0]


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(3, 30, (5, 9), generator=torch.Generator().manual_seed(1))


def gradients(graph: Graph, ids: Tensor) -> dict[str, Tensor]:
    own = {n: torch.nn.Parameter(p.detach().clone()) for n, p in graph.parameters().items()}
    model = graph.with_tensors(own)
    logits = model(*decoder_inputs(model, ids))[model.outputs.index("logits")][:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    return dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))


def salience(mode: str, graph: Graph, ids: Tensor) -> dict[str, Tensor]:
    """What the published code calls salience: S = w g, with acc = the mean of the squared gradients of samples."""
    mean, each = gradients(graph, ids), [gradients(graph, row[None]) for row in ids]
    found = {}
    for name, p in graph.parameters().items():
        w, acc = p.detach(), torch.stack([one[name].square() for one in each]).mean(0)
        if mode.endswith("second"):
            found[name] = w * acc * w
        elif mode.endswith("mix"):
            found[name] = w * mean[name] - 0.5 * w * acc * w
        else:
            found[name] = w * mean[name]
    return found


def lines(mode: str, s: Tensor, rows: bool) -> Tensor:
    """The score of each row, or column, of a matrix."""
    s = s if rows else s.T
    return s.sum(1).abs() if mode.startswith("vectorize") else s.abs().sum(1)


def reference(mode: str, graph: Graph, ids: Tensor, members: str) -> dict[str, Tensor]:
    """The scores of heads and channels of every layer, member by member in the order of the graph."""
    s = salience(mode, graph, ids)
    found = {}
    for layer in range(2):
        name = f"model.layers.{layer}."
        attention = [
            lines(mode, s[f"{name}self_attn.{part}_proj.weight"], part != "o").view(KV, -1).sum(1) for part in "qkvo"
        ]
        mlp = [lines(mode, s[f"{name}mlp.{part}_proj.weight"], part != "down") for part in ("gate", "up", "down")]
        found[f"{layer} attention"], found[f"{layer} mlp"] = merge(attention, members), merge(mlp, members)
    return found


def merge(parts: list[Tensor], members: str) -> Tensor:
    table = torch.stack(parts)
    return {
        "sum": table.sum(0),
        "mean": table.mean(0),
        "max": table.max(0).values,
        "prod": table.prod(0) ** (1 / len(parts)),
        "first": parts[0],
        "last": parts[-1],
    }[members]


def label(group: Group) -> str:
    return f"{group.id.split('.')[2]} {group.kind}"


@pytest.mark.parametrize("members", REDUCTIONS)
@pytest.mark.parametrize("mode", MODES)
def test_every_variant_is_the_published_formula(mode: str, members: Any, graph: Graph, tokens: Tensor) -> None:
    groups = analyze(graph).prunable(frozenset({"mlp", "attention"}))
    wanted = reference(mode, graph, tokens, members)
    assert {label(group) for group in groups} == wanted.keys()
    for batches in ([tokens], [tokens[:2], tokens[2:]]):
        found = replace(MODES[mode], members=members).exact_scores(view(graph, groups, batches))
        for group in groups:
            torch.testing.assert_close(found[group.id], wanted[label(group)], rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("members", REDUCTIONS)
def test_magnitude_is_reduced_alike(members: Any, network: Any, graph: Graph) -> None:
    groups = analyze(graph).prunable(frozenset({"mlp"}))
    found = Magnitude(members=members).score(view(graph, groups))
    for group in groups:
        mlp = network.model.layers[int(group.id.split(".")[2])].mlp
        sides = ((mlp.gate_proj, 1), (mlp.up_proj, 1), (mlp.down_proj, 0))
        parts = [side.weight.detach().square().sum(dim) for side, dim in sides]
        torch.testing.assert_close(found[group.id], merge(parts, members).float())


def test_a_group_without_gradients_and_a_product_with_a_zero() -> None:
    assert reduce_members([], 3, "max").tolist() == [0, 0, 0]
    zero = [torch.tensor([0.0, 1.0, 1e-300]).double(), torch.tensor([2.0, 4.0, 1e-300]).double()]
    assert reduce_members(zero, 3, "prod").tolist() == pytest.approx([0.0, 2.0, 1e-300])


def permuted(graph: Graph, order: list[int]) -> Graph:
    """The graph with the query heads of its first layer in another order, as q and o have them."""
    index = torch.cat([torch.arange(HEAD) + HEAD * head for head in order])
    name = "model.layers.0.self_attn."
    old = graph.parameters()
    new = {
        f"{name}q_proj.weight": old[f"{name}q_proj.weight"].detach()[index],
        f"{name}o_proj.weight": old[f"{name}o_proj.weight"].detach()[:, index],
    }
    return graph.with_tensors({n: torch.nn.Parameter(t) for n, t in new.items()})


def test_a_key_head_has_the_credit_of_its_own_query_heads(graph: Graph, tokens: Tensor) -> None:
    def heads(graph: Graph) -> Tensor:
        groups = [g for g in analyze(graph).prunable(frozenset({"attention"})) if label(g) == "0 attention"]
        return MODES["param_first"].exact_scores(view(graph, groups, [tokens]))[groups[0].id]

    torch.testing.assert_close(heads(permuted(graph, [1, 0, 3, 2])), heads(graph), rtol=1e-9, atol=0)
    assert not torch.allclose(heads(permuted(graph, [2, 3, 0, 1])), heads(graph), rtol=1e-3)


def test_a_product_needs_two_members_and_a_mean_over_entries_none(graph: Graph, tokens: Tensor) -> None:
    vocabulary = [g for g in analyze(graph).groups if g.id == "model.embed_tokens.weight:0"]
    scene = view(graph, vocabulary, [tokens])
    single = replace(vocabulary[0], slots=vocabulary[0].slots[:1])
    for importance in (Taylor(members="prod"), Magnitude(members="prod")):
        with pytest.raises(UsageError, match=r"members=prod.*in one alone; use members=sum"):
            importance.score(replace(scene, candidates=(single,)))
    with pytest.raises(UsageError, match="leave members out"):
        Magnitude(reduction="mean", members="max")
    with pytest.raises(UsageError, match="leave members out"):
        Magnitude(of="columns", members="max")
    with pytest.raises(UsageError, match="members"):
        Taylor(members="median")  # type: ignore[arg-type]


def test_the_layer_mode_keeps_the_first_layers(graph: Graph, tokens: Tensor) -> None:
    wanted = apply(graph, Plan({}, tuple(b.id for b in analyze(graph).branches[2:])))
    request = Request(Budget(wanted.parameter_count()), Order(), Uniform(), ("layers",))
    found = prune(graph, request, [tokens])
    assert found.plan.dropped == wanted.lineage.plan.dropped
    channels = analyze(graph).prunable(frozenset({"mlp"}))
    assert Order().score(view(graph, channels))[channels[0].id].tolist() == [-float(i) for i in range(12)]
