"""Token rules: new rows of a result need no more than the rows that the rule asks of the operands."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx

from graphprune.axes.rules import elementwise
from graphprune.frontend.stepwise.token_flow import SEQUENCE, Form, operands, shape_of, token_dims
from graphprune.frontend.stepwise.token_rules import RULES, attention, divides, einsum, parts, rule_of, volume
from graphprune.ir.operators import opname
from graphprune.ir.sizes import concrete, symbol
from graphprune.ir.types import TensorType
from tests.support.texts import IDS, MIXES, Mix, graph_of, values

aten = torch.ops.aten
LENGTH, NEW = 6, 2
BATCH = symbol("batch")


def asked(node: fx.Node, form: Form) -> tuple[slice, ...]:
    """The entries of a value that a form names, in one text: along its dimensions the last tokens alone.

    A dimension with tokens and something else beside them, as twice each, has that many more rows.
    """
    sizes = concrete(shape_of(node), {"batch": 1, "sequence": LENGTH})
    return tuple(slice(size - size * NEW // LENGTH, size) if d in form else slice(None) for d, size in enumerate(sizes))


def disturbed(tensor: Tensor, keep: tuple[slice, ...]) -> Tensor:
    """Other values outside of these entries, which are valid indices where there were such."""
    other = ~tensor if tensor.dtype is torch.bool else torch.zeros_like(tensor)
    other = other + 7.5 if tensor.is_floating_point() else other
    other[keep] = tensor[keep]
    return other


def forms_of(node: fx.Node) -> Iterator[Form]:
    dims = sorted(token_dims(node))
    for count in range(1, len(dims) + 1):
        yield from map(frozenset, itertools.combinations(dims, count))


def calls(mix: Mix) -> Iterator[tuple[fx.Node, Form, list[Form] | None]]:
    for node in graph_of(mix).nodes:
        rule = rule_of(node) if node.op == "call_function" else None
        for form in forms_of(node) if rule is not None and "value" in node.meta and operands(node) else ():
            yield node, form, rule(node, form)  # type: ignore[misc]


def run(node: fx.Node, found: dict[fx.Node, Any], replaced: dict[int, Tensor]) -> Any:
    """The call once more, its operands replaced by their place among them."""
    places = itertools.count()

    def operand(n: fx.Node) -> Any:
        place = next(places) if isinstance(n.meta.get("value"), (TensorType, tuple)) else -1
        return replaced.get(place, found[n])

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), operand)
    return node.target(*args, **kwargs)  # type: ignore[operator]


@pytest.mark.parametrize("mix", MIXES)
def test_asked_rows_of_the_operands_are_enough(mix: Mix) -> None:
    """Whatever the other rows of an operand hold, the asked rows of the result are the same."""
    ids = torch.randint(IDS, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    found, seen = values(graph_of(mix), ids, torch.ones_like(ids)), 0
    for node, form, forms in calls(mix):
        if forms is None or isinstance(found[node], (tuple, list)):
            continue
        assert len(forms) == len(operands(node))
        for place, (operand, need) in enumerate(zip(operands(node), forms, strict=True)):
            assert need <= token_dims(operand), f"{node} asks {operand} for tokens where it has none"
            if need and isinstance(found[operand], Tensor):
                new = run(node, found, {place: disturbed(found[operand], asked(operand, need))})
                rows = asked(node, form)
                torch.testing.assert_close(new[rows], found[node][rows], rtol=1e-5, atol=1e-6)
                seen += 1
    assert seen > 3


def test_every_elementwise_operator_has_a_rule() -> None:
    assert {name.removeprefix("aten.") for name in elementwise.RULES} <= set(RULES)


def value(made: fx.Graph, *shape: Any) -> fx.Node:
    node = made.placeholder("x")
    node.meta["value"] = TensorType(torch.float32, shape)
    return node


def asks(target: Any, args: tuple[Any, ...], shape: tuple[Any, ...], *dims: int) -> list[Form] | None:
    """What a call whose tensors are given as shapes asks of them for the new tokens along these dimensions."""
    made = fx.Graph()

    def node(entry: Any) -> Any:
        if isinstance(entry, list):
            return list(map(node, entry))
        return value(made, *entry) if isinstance(entry, tuple) else entry

    call = made.call_function(target, tuple(map(node, args)))
    call.meta["value"] = TensorType(torch.float32, shape)
    rule = rule_of(call)
    assert rule is not None
    return rule(call, frozenset(dims))


TEXT = (BATCH, SEQUENCE, 8)
HEADS = (BATCH, 2, SEQUENCE, 4)
SCORES = (BATCH, 2, SEQUENCE, SEQUENCE)


@pytest.mark.parametrize(
    ("target", "args", "shape", "dim"),
    [
        (aten.softmax.int, (SCORES, -1), SCORES, 3),
        (aten.cumsum.default, (TEXT, 1), TEXT, 1),
        (aten.slice.Tensor, (TEXT, 1, 1, 9), (BATCH, SEQUENCE - 1, 8), 1),
        (aten.cat.default, ([TEXT, TEXT], 1), (BATCH, 2 * SEQUENCE, 8), 1),
        (aten.layer_norm.default, ((BATCH, 8, SEQUENCE), [SEQUENCE]), (BATCH, 8, SEQUENCE), 2),
        (aten.split_with_sizes.default, (TEXT, [3, 5], 1), TEXT, 1),
        (aten.tril.default, (SCORES,), SCORES, 3),
    ],
    ids=lambda entry: str(entry) if callable(entry) else None,
)
def test_calls_that_mix_tokens_along_the_asked_dimension_need_the_whole_text(
    target: Any, args: tuple[Any, ...], shape: tuple[Any, ...], dim: int
) -> None:
    assert asks(target, args, shape, dim) is None


@pytest.mark.parametrize("keepdim", [False, True])
def test_a_sum_asks_for_the_rows_that_it_leaves(keepdim: bool) -> None:
    left = (BATCH, *([1] if keepdim else []), SEQUENCE, 4)
    assert asks(aten.sum.dim_IntList, (HEADS, [1], keepdim), left, 2 if keepdim else 1) == [{2}]
    assert asks(aten.sum.dim_IntList, (SCORES, [-1], True), (BATCH, 2, SEQUENCE, 1), 2) == [{2}]
    assert asks(aten.sum.dim_IntList, (HEADS, [2], True), (BATCH, 2, 1, 4), 2) is None
    assert asks(aten.sum.default, (HEADS,), (), *()) is None


def test_rows_of_scores_are_those_of_queries_and_columns_those_of_keys() -> None:
    keys = (BATCH, 2, 4, SEQUENCE)
    rows, columns = (asks(aten.matmul.default, (HEADS, keys), SCORES, dim) for dim in (2, 3))
    assert rows == [{2}, frozenset()]
    assert columns == [frozenset(), {3}]
    both = asks(aten.matmul.default, (HEADS, keys), SCORES, 2, 3)
    assert both == [{2}, {3}]


def test_attention_asks_for_new_queries_and_rows_of_the_mask_and_for_all_keys() -> None:
    call = aten.scaled_dot_product_attention.default
    assert asks(call, (HEADS, HEADS, HEADS, SCORES), HEADS, 2) == [{2}, frozenset(), frozenset(), {2}]
    one_row = (BATCH, 1, 1, SEQUENCE)
    assert asks(call, (HEADS, HEADS, HEADS, one_row), HEADS, 2) == [{2}, frozenset(), frozenset(), frozenset()]
    assert asks(call, (HEADS, HEADS, HEADS, None, 0.0, True), HEADS, 2) is None, "it counts places itself"


def test_causal_by_name_counts_places_too() -> None:
    made = fx.Graph()
    q, k, v = (value(made, *HEADS) for _ in range(3))
    call = made.call_function(aten.scaled_dot_product_attention.default, (q, k, v), {"is_causal": True})
    call.meta["value"] = TensorType(torch.float32, HEADS)
    assert attention(call, frozenset({2})) is None


def test_an_einsum_follows_its_letters_and_one_with_an_ellipsis_is_not_read() -> None:
    y = (BATCH, SEQUENCE, 2, 4)
    assert asks(aten.einsum.default, ("bihd, bjhd -> bhij", [y, y]), SCORES, 2) == [{1}, frozenset()]
    assert asks(aten.einsum.default, ("bihd,bjhd->bhij", [y, y]), SCORES, 3) == [frozenset(), {1}]
    made = fx.Graph()
    call = made.call_function(aten.einsum.default, ("...ij->...ji", [value(made, *TEXT)]))
    call.meta["value"] = TensorType(torch.float32, (BATCH, 8, SEQUENCE))
    assert einsum(call, frozenset({2})) is None


def test_shapes_that_move_the_tokens_ask_for_where_they_were() -> None:
    assert asks(aten.permute.default, (HEADS, [0, -2, 1, 3]), (BATCH, SEQUENCE, 2, 4), 1) == [{2}]
    assert asks(aten.transpose.int, (TEXT, 1, -1), (BATCH, 8, SEQUENCE), 2) == [{1}]
    assert asks(aten.unsqueeze.default, (TEXT, 1), (BATCH, 1, SEQUENCE, 8), 2) == [{1}]
    assert asks(aten.select.int, (HEADS, 1, 0), (BATCH, SEQUENCE, 4), 1) == [{2}]
    assert asks(aten.squeeze.dim, ((BATCH, 1, SEQUENCE), 1), (BATCH, SEQUENCE), 1) == [{2}]
    assert asks(aten.stack.default, ([TEXT, TEXT], 1), (BATCH, 2, SEQUENCE, 8), 2) == [{1}, {1}]
    assert asks(aten.reshape.default, (TEXT, []), (BATCH, SEQUENCE, 2, 4), 1) == [{1}]
    assert asks(aten.reshape.default, (TEXT, []), (BATCH * SEQUENCE, 8), 0) == [{1}]
    assert asks(aten.reshape.default, (SCORES, []), (BATCH, 2, SEQUENCE**2), 2) is None, "both of its dimensions"


def test_a_table_is_needed_whole_and_ids_where_they_are_asked_for() -> None:
    assert asks(aten.embedding.default, ((16, 8), (BATCH, SEQUENCE)), TEXT, 1) == [frozenset(), {1}]
    assert asks(aten.embedding.default, ((16, SEQUENCE), (BATCH, 3)), (BATCH, 3, SEQUENCE), 2) is None


def test_topk_mixes_the_last_dimension_where_none_is_named() -> None:
    assert asks(aten.topk.default, (TEXT, 2), (BATCH, SEQUENCE, 2), 1) == [{1}]
    assert asks(aten.topk.default, ((BATCH, 8, SEQUENCE), 2), (BATCH, 8, SEQUENCE), 2) is None


SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 6, BATCH, SEQUENCE]), max_size=5)


@given(SHAPES, st.randoms())
def test_parts_of_two_shapes_hold_the_same_and_leave_nothing_out(shape: list[Any], random: Any) -> None:
    """Against a shape that joins random runs of the other."""
    after, index = [], 0
    while index < len(shape):
        step = random.randint(1, 3)
        after.append(volume(tuple(shape), list(range(index, min(index + step, len(shape))))))
        index += step
    before, joined = tuple(shape), tuple(after)
    for left, right in ((before, joined), (joined, before)):
        runs = list(parts(left, right))
        assert [d for run, _ in runs for d in run] == list(range(len(left)))
        assert [d for _, run in runs for d in run] == list(range(len(right)))
        assert all(volume(left, a) == volume(right, b) for a, b in runs)


@pytest.mark.parametrize(
    ("whole", "part", "expected"),
    [(6, 3, True), (3, 6, False), (4, 3, False), (BATCH * SEQUENCE, BATCH, True), (BATCH, BATCH * SEQUENCE, False)],
)
def test_a_part_grows_where_the_whole_is_a_multiple_of_it(whole: Any, part: Any, expected: bool) -> None:
    assert divides(volume((whole,), [0]), volume((part,), [0])) is expected


def test_a_call_without_a_rule_has_none() -> None:
    made = fx.Graph()
    call = made.call_function(aten.flip.default, (value(made, *TEXT), [1]))
    assert rule_of(call) is None
    assert opname(call) == "flip"
