"""A graph as JSON and back."""

import json

import pytest
import torch
from torch import nn

from graphprune.errors import ExportError, SourceError
from graphprune.generic.program_graphprune import pack, unpack
from graphprune.ir.graph import Graph
from graphprune.ir.serial import from_data, is_exact_in, parse_size, stored_tensors, to_data
from graphprune.ir.sizes import symbol
from tests.support.tiny_llama import tiny_graph


def reread(graph: Graph) -> Graph:
    return from_data(json.loads(json.dumps(to_data(graph))), stored_tensors(graph), graph.source)


def test_a_graph_survives_the_round_trip() -> None:
    graph = tiny_graph()
    again = reread(graph)
    assert str(again) == str(graph)
    assert (again.inputs, again.outputs) == (graph.inputs, graph.outputs)
    assert [n.meta.get("value") for n in again.nodes] == [n.meta.get("value") for n in graph.nodes]
    assert [n.meta.get("scope") for n in again.nodes] == [n.meta.get("scope") for n in graph.nodes]
    assert again.parameter_count() == graph.parameter_count()


def test_the_graph_read_back_computes_the_same() -> None:
    graph = tiny_graph()
    ids = torch.arange(5).unsqueeze(0)
    caches = [torch.zeros(1, 4, 0, 4)] * 4
    inputs = (ids, torch.ones_like(ids), ids, *caches)
    for mine, other in zip(graph(*inputs), reread(graph)(*inputs), strict=True):
        assert torch.equal(mine, other)


def test_packing_is_lossless_and_refuses_anything_else() -> None:
    data = to_data(tiny_graph())
    assert unpack(pack(data)) == data
    for text in ("", "not base64!", "aGVsbG8=", pack([1, 2])):
        with pytest.raises(ValueError, match="no readable graphprune graph"):
            unpack(text)
    with pytest.raises(ValueError, match="format 99"):
        unpack(pack({**data, "format": 99}))


def test_a_tied_tensor_is_stored_once() -> None:
    graph = tiny_graph()
    assert sum(t.numel() for t in stored_tensors(graph).values()) == sum(
        t.numel() for t in {id(t): t for t in graph.tensors().values()}.values()
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [("past + sequence", symbol("past") + symbol("sequence")), ("2*batch - 1", 2 * symbol("batch") - 1), ("7", 7)],
)
def test_sizes_are_read_as_arithmetic(text: str, size: object) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["__import__('os')", "batch.real", "(lambda: 1)()", "[1]", "'a'"])
def test_sizes_are_never_run_as_code(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_damaged_data_is_one_error() -> None:
    graph = tiny_graph()
    data = to_data(graph)
    for damage in (
        {"nodes": data["nodes"][:-1]},
        {"outputs": [["logits", 10**6]]},
        {"tensors": {"missing": ["float32", [1], True]}},
        {"kind": {"decoder": 1}},
        {"kind": "something else"},
    ):
        with pytest.raises(SourceError, match="damaged"):
            from_data({**data, **damage}, stored_tensors(graph))


def test_an_unknown_function_is_refused_by_name() -> None:
    graph = tiny_graph().fork()
    next(n for n in graph.nodes if n.op == "call_function").target = nn.functional.silu
    with pytest.raises(ExportError, match="has no name that a checkpoint can hold"):
        to_data(graph)


def test_a_narrower_type_is_taken_where_it_is_exact_down_to_the_last_row() -> None:
    values = torch.randn(3000, 700, generator=torch.Generator().manual_seed(0))
    exact = values.to(torch.bfloat16).float()
    assert is_exact_in(exact, torch.bfloat16)
    assert is_exact_in(exact.t(), torch.bfloat16)
    exact[-1, -1] = values[-1, -1]
    assert not is_exact_in(exact, torch.bfloat16)
    assert is_exact_in(torch.zeros(()), torch.float16)
    assert is_exact_in(torch.zeros(0, 3), torch.float16)
