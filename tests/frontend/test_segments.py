"""Segments: the calls of each block of a graph, what leaves them, and whether two blocks are captured alike."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from graphprune.frontend.blocks.relation import NotRepeatedError
from graphprune.frontend.blocks.repetition import Repetition
from graphprune.frontend.blocks.segments import (
    Operand,
    View,
    block_of,
    find_segments,
    is_traced,
    rename,
    require_alike,
)
from tests.support.blocks import Row, traced

aten = torch.ops.aten
ALL = Repetition("layers", (0, 1, 1), 3, 1)


def halved_after(number: int) -> Callable[[int, Tensor], Tensor]:
    return lambda index, x: x / 2 if index == number else x


def test_a_name_moves_to_another_block_and_only_from_its_own() -> None:
    assert rename("layers.1.linear.weight", ("layers", 1), ("layers", 12)) == "layers.12.linear.weight"
    assert rename("layers.1", ("layers", 1), ("layers", 2)) == "layers.2"
    assert rename("layers.1.linear", ("layers", 1)) == ".linear"
    for other in ("layers.11.linear", "layers.2.linear", "head.layers.1", "layers"):
        assert rename(other, ("layers", 1), ("layers", 3)) == other


def test_the_block_of_a_module_is_the_number_after_the_path_of_the_list() -> None:
    paths = {"layers": 3, "tower.layers": 2}
    assert block_of("layers.1.linear", paths) == ("layers", 1)
    assert block_of("tower.layers.10", paths) == ("tower.layers", 10)
    assert block_of("head", paths) is block_of("layersets.1", paths) is block_of("", paths) is None


def test_every_traced_call_of_a_block_is_its_own_and_the_rest_is_nobodys() -> None:
    graph = traced(Row(3))
    segments = find_segments(graph, [ALL])
    calls = [n for n in graph.nodes if is_traced(n)]
    assert set(segments.nodes) == {("layers", i) for i in range(3)}
    for block, nodes in segments.nodes.items():
        assert list(nodes) == [n for n in calls if n.meta["scope"].startswith(f"layers.{block[1]}")]
        assert all(segments.owners[n] == block for n in nodes)
    [head] = [n for n in calls if n not in segments.owners]
    assert head.meta["scope"] == "head"


def test_each_block_hands_on_its_sum_alone() -> None:
    segments = find_segments(traced(Row(3)), [ALL])
    for nodes, carried in zip(segments.nodes.values(), segments.carried.values(), strict=True):
        assert list(carried) == [nodes[-1]]
        assert nodes[-1].target is aten.add.Tensor


@pytest.mark.parametrize("place", [0, 1])
def test_a_call_between_blocks_is_no_blocks(place: int) -> None:
    """After the last one it belongs to what follows."""
    message = "the calls of a block do not stand together, or something is computed between blocks"
    with pytest.raises(NotRepeatedError, match=message):
        find_segments(traced(Row(3, halved_after(place))), [ALL])
    find_segments(traced(Row(3, halved_after(2))), [ALL])


def test_all_blocks_that_are_kept_must_be_there() -> None:
    with pytest.raises(NotRepeatedError, match="do not stand together"):
        find_segments(traced(Row(2)), [ALL])


def test_equal_blocks_are_alike() -> None:
    graph = traced(Row(3))
    segments = find_segments(graph, [ALL])
    require_alike(graph, segments, [ALL])
    view = View(graph, segments)
    assert view.lines(("layers", 1), borders=True) == view.lines(("layers", 2), borders=True)
    assert view.lines(("layers", 0), borders=True) != view.lines(("layers", 1), borders=True), "it reads the input"
    assert view.lines(("layers", 0), borders=False) == view.lines(("layers", 1), borders=False)


@pytest.mark.parametrize(("number", "pair"), [(0, "0 and 1"), (2, "1 and 2")])
def test_a_block_with_another_call_is_not(number: int, pair: str) -> None:
    row = Row(3)
    row.layers[number].register_forward_hook(lambda module, args, x: x.tanh())
    graph = traced(row)
    with pytest.raises(NotRepeatedError, match=f"blocks {pair} of layers are captured differently"):
        require_alike(graph, find_segments(graph, [ALL]), [ALL])


def test_a_constant_of_another_value_is_another_line() -> None:
    graph = traced(Row(3)).fork()
    segments = find_segments(graph, [ALL])
    constants = [n for n in graph.module.graph.find_nodes(op="get_attr") if str(n.target).startswith("constants.")]
    scales = graph.with_tensors({str(constants[-1].target): torch.tensor([1.0, 2.0, 3.0, 5.0])})
    require_alike(graph, segments, [ALL])
    with pytest.raises(NotRepeatedError, match="are captured differently"):
        require_alike(scales, find_segments(scales, [ALL]), [ALL])


def test_operands_are_written_as_their_block_sees_them() -> None:
    graph = traced(Row(3))
    segments = find_segments(graph, [ALL])
    view = View(graph, segments)
    lines = {line[0]: line[1] for line in view.lines(("layers", 2), borders=True)}
    own = [Operand("tensor", f".linear.{name}") for name in ("weight", "bias")]
    assert lines[aten.linear.default][0] == (Operand("carried", (1, 0)), *own)
    first = {line[0]: line[1] for line in view.lines(("layers", 0), borders=True)}
    assert first[aten.linear.default][0][0] == Operand("input", graph.placeholders["x"])
    hidden = {line[0]: line[1] for line in view.lines(("layers", 2), borders=False)}
    assert hidden[aten.linear.default][0][0] == Operand("border")
