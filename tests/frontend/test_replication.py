"""Replication: from the graph of the first blocks to that of all of them."""

from dataclasses import replace

import pytest
import torch

from graphprune.frontend.blocks.relation import NotRepeatedError
from graphprune.frontend.blocks.repetition import Repetition
from graphprune.frontend.blocks.replication import replicate
from graphprune.ir.graph import Graph
from graphprune.ir.verification import verify
from graphprune.models.contract import Contract
from tests.support.blocks import CONTRACT, Row, traced

BLOCKS = 5


def continued(row: Row, kept: int, repetition: Repetition, contract: Contract = CONTRACT) -> Graph:
    names = [*dict(row.named_parameters()), *dict(row.named_buffers())]
    tensors = {**dict(row.named_parameters()), **dict(row.named_buffers())}
    return replicate(traced(row, kept), [repetition], contract, tensors, names)


def test_two_blocks_become_five() -> None:
    """Node for node and tensor for tensor the graph that tracing all of them gives."""
    row = Row(BLOCKS)
    found = continued(row, 2, Repetition("layers", (0, 1, 1, 1, 1), 2, 1))
    whole = traced(row)
    verify(found)
    assert str(found) == str(whole)
    assert [(n.name, str(n.args), n.meta) for n in found.nodes] == [(n.name, str(n.args), n.meta) for n in whole.nodes]
    assert list(found.tensors()) == list(whole.tensors())
    for name, tensor in whole.parameters().items():
        assert found.parameters()[name] is tensor


def test_it_computes_what_the_module_does() -> None:
    row, x = Row(BLOCKS), torch.randn(6, 4)
    found = continued(row, 2, Repetition("layers", (0, 1, 1, 1, 1), 2, 1))
    with torch.no_grad():
        assert torch.equal(found(x)[0], row(x))


def test_each_block_stands_for_those_that_name_it() -> None:
    """Blocks of two kinds in turn: of each kind one is traced."""
    row = Row(BLOCKS)
    for index in (1, 3):
        row.layers[index].register_forward_hook(lambda module, args, x: x.tanh())
    found = continued(row, 3, Repetition("layers", (0, 1, 2, 1, 2), 3, 2))
    assert str(found) == str(traced(row))


def test_a_constant_that_one_block_reads_is_another_tensor_in_each() -> None:
    constants = list(continued(Row(BLOCKS), 2, Repetition("layers", (0, 1, 1, 1, 1), 2, 1)).tensors())
    assert [n for n in constants if n.startswith("constants.")] == [f"constants.{k}" for k in range(BLOCKS)]


def test_the_small_graph_stays_as_it_is() -> None:
    row = Row(BLOCKS)
    small = traced(row, 2)
    printed = str(small)
    replicate(small, [Repetition("layers", (0, 1, 1), 2, 1)], CONTRACT, dict(row.named_parameters()), [])
    assert str(small) == printed


def test_blocks_that_are_captured_differently_are_not_continued() -> None:
    row = Row(BLOCKS)
    row.layers[1].register_forward_hook(lambda module, args, x: x.tanh())
    with pytest.raises(NotRepeatedError, match="blocks 0 and 1 of layers are captured differently"):
        continued(row, 2, Repetition("layers", (0, 1, 1, 1, 1), 2, 1))


def test_an_input_of_another_type_than_that_of_the_small_graph_is_refused() -> None:
    other = replace(CONTRACT, inputs={"x": torch.randn(3, 4, dtype=torch.float64)})
    with pytest.raises(NotRepeatedError, match="x has another type than x"):
        continued(Row(BLOCKS), 2, Repetition("layers", (0, 1, 1, 1, 1), 2, 1), other)
