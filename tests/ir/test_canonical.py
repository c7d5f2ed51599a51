"""Canonical form: the way that a graph was made leaves no trace in it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn

from graphprune.ir.canonical import CONSTANTS, canonical
from tests.support.families import graph

aten = torch.ops.aten
TENSORS: dict[str, Tensor] = {
    "first": nn.Parameter(torch.tensor([1.0, 2.0])),
    "second": nn.Parameter(torch.tensor([3.0, 4.0])),
    "unread": nn.Parameter(torch.tensor([5.0, 6.0])),
    "lifted_7": torch.tensor([7.0, 8.0]),
    "lifted_2": torch.tensor([9.0, 1.0]),
}
ORDER = ("unread", "first", "second")


def scrambled(names: bool) -> fx.Graph:
    """(x * second + lifted_7) * first + lifted_2, attributes read late and one in vain; names of nodes as they come."""
    made = fx.Graph()
    made.get_attr("unread")
    x = made.placeholder("x")
    second = made.get_attr("second")
    product = made.call_function(aten.mul.Tensor, (x, second))
    shifted = made.call_function(aten.add.Tensor, (product, made.get_attr("lifted_7")))
    scaled = made.call_function(aten.mul.Tensor, (shifted, made.get_attr("first")))
    result = made.call_function(aten.add.Tensor, (scaled, made.get_attr("lifted_2")))
    made.output((result,))
    for number, node in enumerate(made.nodes):
        node.meta["place"] = str(node.target)
        if names and node.op != "placeholder":
            node.name = f"strange_{number}"
    return made


def lines(module: fx.GraphModule) -> list[str]:
    return [f"{node.name} {node.op} {node.target} {node.args}" for node in module.graph.nodes]


def test_inputs_come_first_then_tensors_by_their_order_then_constants_by_use() -> None:
    module = canonical(scrambled(names=False), TENSORS, ORDER)
    heads = [str(node.target) for node in module.graph.nodes if node.op in ("placeholder", "get_attr")]
    assert heads == ["x", "first", "second", f"{CONSTANTS}0", f"{CONSTANTS}1"]
    ops = [node.op for node in module.graph.nodes]
    assert ops == ["placeholder", *["get_attr"] * 4, *["call_function"] * 4, "output"]


def test_it_computes_the_same_with_the_same_tensors() -> None:
    module, x = canonical(scrambled(names=False), TENSORS, ORDER), torch.tensor([10.0, -1.0])
    expected = (x * TENSORS["second"] + TENSORS["lifted_7"]) * TENSORS["first"] + TENSORS["lifted_2"]
    assert torch.equal(module(x)[0], expected)
    assert module.first is TENSORS["first"]
    assert [n for n, _ in module.named_parameters()] == ["first", "second"]
    assert not module.training


def test_names_of_nodes_do_not_depend_on_those_they_had() -> None:
    plain, strange = (canonical(scrambled(names), TENSORS, ORDER) for names in (False, True))
    assert lines(plain) == lines(strange)
    assert plain.code == strange.code


def test_what_was_noted_of_a_node_goes_with_it_and_is_not_shared() -> None:
    old = scrambled(names=False)
    module = canonical(old, TENSORS, ORDER)
    places = [node.meta["place"] for node in module.graph.nodes]
    assert places == [
        "x",
        "first",
        "second",
        "lifted_7",
        "lifted_2",
        *["aten.mul.Tensor", "aten.add.Tensor"] * 2,
        "output",
    ]
    next(iter(module.graph.nodes)).meta["place"] = "elsewhere"
    assert "elsewhere" not in [node.meta["place"] for node in old.nodes]


@pytest.mark.xdist_group("llama")
def test_a_canonical_graph_stays_as_it_is() -> None:
    once = graph("llama")
    again = replace(once, module=canonical(once.module.graph, once.tensors(), list(once.tensors())))
    assert str(again) == str(once)
    assert [n.name for n in again.nodes] == [n.name for n in once.nodes]
    assert list(again.tensors()) == list(once.tensors())
    assert all(again.tensors()[name] is tensor for name, tensor in once.tensors().items())
