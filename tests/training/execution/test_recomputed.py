"""What is computed again: what is cheap beside a product, or all of a layer."""

import pytest
import torch
from torch import fx

from graphprune.ir.graph import Graph
from graphprune.ir.operators import opname
from graphprune.training.execution.recomputed import Checkpoint, differentiable, draws, recomputed
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")


def operators(mode: Checkpoint) -> set[str]:
    names = recomputed(tiny_graph(), mode)
    return {opname(node) for node in tiny_graph().nodes if node.name in names}


def test_products_attention_and_sums_of_the_stream_are_kept() -> None:
    again = operators("selective")
    assert {"mul", "silu", "rsqrt", "reshape"} <= again
    assert not {"linear", "scaled_dot_product_attention", "embedding"} & again
    names = recomputed(tiny_graph(), "selective")
    sums = [node for node in differentiable(tiny_graph()) if opname(node) == "add" and node.name not in names]
    assert len(sums) == 2 * 2 * 2, "two of a layer's stream and two of its rotations"


def test_in_full_all_of_a_layer_goes_but_what_is_read_outside() -> None:
    graph, names = tiny_graph(), recomputed(tiny_graph(), "full")
    assert {"linear", "scaled_dot_product_attention", "silu"} <= operators("full")
    read_outside = [node for node in graph.nodes if opname(node) == "add" and node.name not in names]
    assert len(read_outside) >= 2
    assert "embedding" not in operators("full")
    assert graph.results["logits"].name not in names


def test_off_is_nothing() -> None:
    assert recomputed(tiny_graph(), "off") == frozenset()


def test_what_depends_on_no_trained_weight_is_held_as_it_is() -> None:
    frozen = {n: torch.nn.Parameter(p.detach(), "norm" in n) for n, p in tiny_graph().parameters().items()}
    graph = tiny_graph().with_tensors(frozen)
    trained = differentiable(graph)
    assert graph.results["logits"] in trained
    assert next(node for node in graph.nodes if opname(node) == "embedding") not in trained
    assert not [node for node in trained if opname(node) in ("cos", "sin")]


def test_a_long_chain_begins_again() -> None:
    nodes = fx.Graph()
    value = nodes.get_attr("w")
    for _ in range(100):
        value = nodes.call_function(torch.ops.aten.mul.Tensor, (value, 1.01))
    nodes.output((value,))
    graph = Graph(fx.GraphModule({"w": torch.nn.Parameter(torch.ones(2))}, nodes), (), ("x",))
    assert len(recomputed(graph, "selective")) == 97, "each value behind 32 is kept"


def test_what_is_drawn_at_random_is_not_drawn_again() -> None:
    nodes = fx.Graph()
    value = nodes.placeholder("x")
    assert draws(nodes.call_function(torch.ops.aten.bernoulli.default, (value,)))
    attention = torch.ops.aten.scaled_dot_product_attention.default
    assert draws(nodes.call_function(attention, (value, value, value, None, 0.1)))
    assert not draws(nodes.call_function(attention, (value, value, value)))
    assert not draws(nodes.call_function(torch.ops.aten.mul.Tensor, (value, 2)))
