"""Token flow: which values depend on the tokens, and through which of them everything goes."""

import pytest
import sympy
import torch
from torch import Tensor, fx

from graphprune.frontend.stepwise.token_flow import (
    LIKE,
    PAST,
    SEQUENCE,
    TOTAL,
    WHOLE,
    argument,
    bottlenecks,
    dependents,
    has_tokens,
    is_tensor,
    operands,
    passes,
    place_of,
    restricted,
    shape_of,
    token_dims,
    unchanged_operand,
)
from graphprune.ir.graph import Graph
from graphprune.ir.operators import opname
from graphprune.ir.sizes import symbol
from graphprune.ir.types import TensorType
from tests.support.texts import (
    IDS,
    MIXES,
    Mix,
    fused_attention,
    graph_of,
    positions,
    rows_alone,
    running,
    shifts,
    values,
    window,
    written_attention,
)

EVERY = pytest.mark.parametrize("mix", MIXES)


def texts() -> tuple[Tensor, Tensor, Tensor]:
    """Two texts of one shape, and a mask of ones."""
    torch.manual_seed(0)
    return torch.randint(IDS, (2, 6)), torch.randint(IDS, (2, 6)), torch.ones(2, 6, dtype=torch.long)


def ids_of(graph: Graph) -> fx.Node:
    return graph.placeholders["input_ids"]


def differs(left: object, right: object) -> bool:
    if isinstance(left, (tuple, list)):
        return any(differs(a, b) for a, b in zip(left, right, strict=True))  # type: ignore[call-overload]
    return not torch.equal(left, right) if isinstance(left, Tensor) and isinstance(right, Tensor) else left != right


@EVERY
def test_nothing_but_what_depends_on_the_tokens_changes_with_them(mix: Mix) -> None:
    """Against two runs on other texts of one length. Few of the others stay the same by chance."""
    graph = graph_of(mix)
    one, other, mask = texts()
    before, after = values(graph, one, mask), values(graph, other, mask)
    found = dependents(ids_of(graph))
    moved = {node for node in before if node.op != "output" and differs(before[node], after[node])}
    assert moved <= found
    assert graph.results["logits"] in moved
    assert len(moved) > 0.8 * len(found)


def test_a_constant_like_a_value_does_not_depend_on_it() -> None:
    graph = graph_of(shifts)
    found = dependents(ids_of(graph))
    like = [node for node in graph.nodes if opname(node) in LIKE]
    assert like
    assert found.isdisjoint(like)


@EVERY
def test_all_that_comes_after_a_bottleneck_is_computed_from_it(mix: Mix) -> None:
    """Without it no path is left from the tokens to the logits."""
    graph = graph_of(mix)
    depends, logits = dependents(ids_of(graph)), graph.results["logits"]
    found = bottlenecks(graph.nodes, depends)
    assert found[0].op == "placeholder"
    assert found[-1] is logits
    assert found == [node for node in graph.nodes if node in set(found)], "in the order of the graph"
    for node in found:
        assert len(token_dims(node)) == 1
        if node not in (logits, ids_of(graph)):
            assert logits not in reached(ids_of(graph), depends - {node})


def reached(source: fx.Node, within: set[fx.Node]) -> set[fx.Node]:
    found, left = {source}, [source]
    while left:
        new = [user for user in left.pop().users if user in within and user not in found]
        found.update(new)
        left += new
    return found


def test_what_two_heads_share_is_no_bottleneck() -> None:
    graph = graph_of(written_attention)
    found = {opname(node) for node in bottlenecks(graph.nodes, dependents(ids_of(graph)))}
    assert "softmax" not in found
    assert {"embedding", "linear", "tanh"} <= found


@EVERY
def test_what_is_returned_as_it_is_equals_its_operand(mix: Mix) -> None:
    graph = graph_of(mix)
    one, _, mask = texts()
    found = values(graph, one, mask)
    for node in graph.nodes:
        if node.op == "call_function" and is_tensor(node) and operands(node):
            same = unchanged_operand(node)
            assert same is None or torch.equal(found[same], found[node])


def test_a_slice_of_everything_and_something_joined_with_nothing_are_unchanged() -> None:
    made = fx.Graph()
    x, none = made.placeholder("x"), made.placeholder("none")
    x.meta["value"], none.meta["value"] = (TensorType(torch.float32, (n, 3)) for n in (SEQUENCE, 0))
    whole = made.call_function(torch.ops.aten.slice.Tensor, (x, 0, 0, 9))
    part = made.call_function(torch.ops.aten.slice.Tensor, (x, 0, 1, 9))
    joined = made.call_function(torch.ops.aten.cat.default, ([none, x], 0))
    doubled = made.call_function(torch.ops.aten.cat.default, ([x, x], 0))
    for node, size in ((whole, SEQUENCE), (part, SEQUENCE - 1), (joined, SEQUENCE), (doubled, 2 * SEQUENCE)):
        node.meta["value"] = TensorType(torch.float32, (size, 3))
    assert [unchanged_operand(n) for n in (whole, part, joined, doubled)] == [x, None, x, None]


def test_keys_that_are_repeated_for_queries_only_pass() -> None:
    graph = graph_of(fused_attention)
    expanded = [node for node in graph.nodes if opname(node) == "expand"]
    assert expanded
    assert all(passes(node) for node in expanded)
    assert not any(passes(node) for node in graph.nodes if opname(node) in ("linear", "slice", "embedding"))
    twice = [node for node in graph_of(rows_alone).nodes if opname(node) == "repeat_interleave"]
    assert all(passes(node) and passes(next(iter(node.users))) for node in twice)


def test_dimensions_with_tokens_are_those_whose_size_names_the_sequence() -> None:
    batch = symbol("batch")
    assert [has_tokens(size) for size in (3, batch, SEQUENCE, batch * SEQUENCE, SEQUENCE - 1, PAST)] == [
        False, False, True, True, True, False,
    ]  # fmt: skip
    graph = graph_of(written_attention)
    scores = next(node for node in graph.nodes if opname(node) == "softmax")
    assert token_dims(scores) == {2, 3}
    assert token_dims(graph.results["logits"]) == {1}


def test_the_shape_of_a_pair_is_that_of_its_first() -> None:
    pair = next(node for node in graph_of(running).nodes if opname(node) == "cummax")
    assert isinstance(pair.meta["value"], tuple)
    assert shape_of(pair) == pair.meta["value"][0].shape


def test_a_type_is_of_the_whole_text_along_all_dimensions_but_those_asked_for() -> None:
    batch = symbol("batch")
    scores = TensorType(torch.float32, (batch, 2, SEQUENCE, SEQUENCE))
    assert restricted(scores, frozenset({2})).shape == (batch, 2, SEQUENCE, TOTAL)
    assert restricted(scores, WHOLE).shape == (batch, 2, TOTAL, TOTAL)
    assert restricted((scores, scores), frozenset({2, 3})) == (scores, scores)
    wide = restricted(TensorType(torch.int64, (2 * SEQUENCE - 1,)), WHOLE).shape[0]
    assert sympy.expand(wide - (2 * TOTAL - 1)) == 0
    assert restricted(SEQUENCE, WHOLE) == SEQUENCE


def test_operands_are_tensors_in_order_and_as_often_as_they_are_read() -> None:
    graph = graph_of(window)
    table = next(node for node in graph.nodes if opname(node) == "embedding")
    assert [node.op for node in operands(table)] == ["get_attr", "placeholder"]
    made = fx.Graph()
    x, size = made.placeholder("x"), made.placeholder("size")
    x.meta["value"], size.meta["value"] = TensorType(torch.float32, (2,)), SEQUENCE
    assert operands(made.call_function(torch.ops.aten.cat.default, ([x, x], size))) == [x, x]


def test_arguments_have_defaults_and_dimensions_are_counted_from_the_front() -> None:
    graph = graph_of(positions)
    counted = next(node for node in graph.nodes if opname(node) == "cumsum")
    assert place_of(counted, 1) == 1
    assert argument(counted, 9, "none") == "none"
    assert place_of(counted, 9) == 0
