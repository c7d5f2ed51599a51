"""Verification: every rule has a graph that breaks it."""

from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

from graphprune.errors import InvariantError
from graphprune.ir.graph import Graph
from graphprune.ir.types import TensorType
from graphprune.ir.verification import verify
from tests.support import zoo
from tests.support.families import families, graph
from tests.support.tiny_llama import tiny_graph

aten = torch.ops.aten
LLAMA = pytest.mark.xdist_group("llama")


@pytest.mark.parametrize("name", families(zoo.FAMILIES))
def test_what_is_captured_keeps_the_rules(name: str) -> None:
    verify(graph(name))


def named(forked: Graph, target: object, number: int = 0) -> fx.Node:
    return [n for n in forked.nodes if n.target is target][number]


def half_done(forked: Graph) -> None:
    """Only the weight shrinks: what reads it, and what it is multiplied with, do not know."""
    weight = forked.parameters()["model.layers.0.mlp.up_proj.weight"]
    forked.module.get_submodule("model.layers.0.mlp.up_proj").weight = nn.Parameter(weight[:40].detach())


def half_done_with_types(forked: Graph) -> None:
    half_done(forked)
    for node in forked.module.graph.find_nodes(op="get_attr"):
        if node.target == "model.layers.0.mlp.up_proj.weight":
            node.meta["value"] = TensorType(torch.float32, (40, 32))


def in_place(forked: Graph) -> None:
    node = named(forked, aten.mul.Tensor)
    node.target = aten.mul_.Tensor


def wrong_size(forked: Graph) -> None:
    node = named(forked, aten.reshape.default)
    node.args = (node.args[0], [*node.args[1][:-1], 4])  # type: ignore[index,misc]


def wrong_type(forked: Graph) -> None:
    node = named(forked, aten.linear.default)
    node.meta["value"] = TensorType(torch.float32, (*node.meta["value"].shape[:-1], 31))


def wrong_element(forked: Graph) -> None:
    node = named(forked, aten.linear.default)
    node.meta["value"] = TensorType(torch.float16, node.meta["value"].shape)


def module_call(forked: Graph) -> None:
    node = named(forked, aten.linear.default)
    with forked.module.graph.inserting_before(node):
        call = forked.module.graph.call_module("model.norm", (node.args[0],))
    call.meta["value"] = node.args[0].meta["value"]  # type: ignore[union-attr]


def one_result_less(forked: Graph) -> None:
    output = forked.module.graph.output_node()
    output.args = (output.args[0][:-1],)  # type: ignore[index]


@LLAMA
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (half_done, r"up_proj.weight has shape \[40, 32\], its node says float32\[44, 32\]"),
        (half_done_with_types, r"aten.linear.default gives .*40\], its node says .*44\]"),
        (in_place, r"aten.mul_.Tensor changes its operand"),
        (wrong_size, r"aten.reshape.default (does not run|gives)"),
        (wrong_type, r"aten.linear.default gives .*its node says .*31\]"),
        (wrong_element, r"gives float32.*its node says float16"),
        (module_call, r"a node of kind call_module is not part of the IR"),
        (one_result_less, r"do not match the contract"),
    ],
)
def test_damage_is_noticed(damage: Callable[[Graph], None], message: str) -> None:
    forked = graph("llama").fork()
    damage(forked)
    with pytest.raises(InvariantError, match=message):
        verify(forked)
    verify(graph("llama"))


@LLAMA
def test_a_size_that_holds_only_with_a_past_is_noticed() -> None:
    """A type that is right for the ordinary sizes and wrong for the empty past."""
    forked = graph("llama").fork()
    node = forked.results["present.0.key"]
    past = forked.placeholders["past_key_values.0.key"].meta["value"].shape[2]
    sequence = forked.placeholders["input_ids"].meta["value"].shape[1]
    kind = node.meta["value"]
    node.meta["value"] = TensorType(kind.dtype, (*kind.shape[:2], past * 8 / 5 + 0 * sequence, kind.shape[3]))
    with pytest.raises(InvariantError, match=r"past': 0"):
        verify(forked)


def test_shapes_are_propagated_once_and_again_where_a_type_changed() -> None:
    fork = tiny_graph().fork()
    verify(fork)
    verify(fork)
    node = next(n for n in fork.nodes if n.op == "call_function" and isinstance(n.meta["value"], TensorType))
    node.meta["value"] = TensorType(node.meta["value"].dtype, (977,))
    with pytest.raises(InvariantError, match="its node says"):
        verify(fork)
    with pytest.raises(InvariantError, match="its node says"):
        verify(fork)
