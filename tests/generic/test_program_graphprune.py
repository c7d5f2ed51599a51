"""Graphs of others: nothing but operators of the list and plain names gets past the reader."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune.axes.rules import BUILT_IN
from graphprune.errors import ExportError, SourceError
from graphprune.generic.program_graphprune import ATEN, Program, element_type, is_name, is_plain, pack, resolve, unpack
from graphprune.ir.serial import from_data, require_plain, stored_tensors, to_data
from tests.support.hostile import harmful_graphs
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")


def damaged(change: Any) -> Any:
    data = copy.deepcopy(to_data(tiny_graph()))
    change(data)
    return data


@pytest.mark.parametrize("name", [name for name, _ in harmful_graphs("")])
def test_harm_in_a_graph_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    data = damaged(dict(harmful_graphs(str(sentinel)))[name])
    with pytest.raises(SourceError, match="is damaged"):
        from_data(data, {**stored_tensors(tiny_graph()), **dict.fromkeys(data["tensors"], torch.zeros(1))})
    with pytest.raises(ValueError, match="not to be trusted"):
        Program(unpack(pack(data)))
    assert not sentinel.exists()


@pytest.mark.parametrize("part", ["nodes", "tensors", "inputs", "outputs"])
@pytest.mark.parametrize("value", [None, 3, "text", [None], [[]], {"a": None}])
def test_other_data_than_a_graph_is_one_error(part: str, value: object) -> None:
    with pytest.raises(ValueError, match="not to be trusted"):
        Program(unpack(pack(damaged(lambda graph: graph.__setitem__(part, value)))))


def test_the_list_has_what_has_axis_rules_and_nothing_that_changes_or_reads_outside() -> None:
    """Operators with a rule but not on the list are those that capture rewrites."""
    rewritten = {"_unsafe_view", "empty_like"}
    with_rules = {name.removeprefix("aten.") for name in BUILT_IN if name.startswith("aten.")}
    assert with_rules - ATEN <= rewritten | {"sym_storage_offset"}
    for name in ATEN:
        packet = getattr(torch.ops.aten, name)
        assert any(is_plain(getattr(packet, overload)) for overload in packet.overloads()), name
    assert not {name for name in ATEN if "unsafe" in name or "storage" in name or "file" in name}


def test_what_our_own_graphs_hold_is_read() -> None:
    graph = unpack(pack(to_data(tiny_graph())))
    assert len(Program(graph).nodes) == len(graph["nodes"])
    assert resolve("operator.add")(2, 3) == 5


@pytest.mark.parametrize("name", ["model.layers.0.mlp.weight", "en-de.bias", "_x", "past_key_values.0.key"])
def test_names(name: str) -> None:
    assert is_name(name)
    require_plain([name])


@pytest.mark.parametrize(
    "name", ["", ".", "a b", "a.", 'a"b', "a(b)", "a\n", "__init__", "x.__dict__", "é", 3, "a" * 2000]
)
def test_no_names(name: Any) -> None:
    assert not is_name(name)
    with pytest.raises(ExportError, match="is no name that a checkpoint can hold"):
        require_plain([name])


def test_element_types() -> None:
    assert element_type("bfloat16") == torch.bfloat16
    for name in ("load", "nn", "float_", None, 3):
        with pytest.raises(ValueError, match="is no element type"):
            element_type(name)
