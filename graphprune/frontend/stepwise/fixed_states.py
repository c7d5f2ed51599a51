"""Held states: calls along the tokens that can go on from a state of a fixed size, in graphs that continue a text.

Each function takes the builder, a call of the old graph and the form that is asked of it, and gives the node of the new
graph, or None where the call is none of its kind. An empty text has states of zeros.
"""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from graphprune.frontend.stepwise.token_flow import SEQUENCE, Form, argument, operands, place_of, shape_of, token_dims
from graphprune.ir.operators import call_name, opname
from graphprune.ir.recurrence import RECURRENCE
from graphprune.ir.types import TensorType

_aten = torch.ops.aten
_END = 2**63 - 1
Held = Callable[[Any, fx.Node, Form], fx.Node | None]


def recurrence(builder: Any, node: fx.Node, form: Form) -> fx.Node | None:
    """A linear recurrence that begins with zeros goes on from its last state."""
    state = operands(node)[4]
    if opname(state) not in ("zeros_like", "zeros") or token_dims(state):
        return None
    arguments = [None if x is state else builder.emit(x, form & token_dims(x)) for x in operands(node)]
    name, held = builder.hold(node, "recurrent", state.meta["value"])
    arguments[4] = held
    last = node.meta["value"][1]
    new = builder.add(RECURRENCE, tuple(arguments), node, builder.type_of(node, form))
    builder.presents[name] = builder.add(operator.getitem, (new, 1), node, last)
    return new  # type: ignore[no-any-return]


def padded_shift(builder: Any, node: fx.Node, form: Form) -> fx.Node | None:
    """Padding by one token in front that drops the last: each token has what the one before it had."""
    amounts = list(argument(node, 1))
    pairs = [(amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)]
    moved = [len(shape_of(node)) - 1 - place for place, pair in enumerate(pairs) if pair != (0, 0)]
    value = node.args[-1] if isinstance(node.args[-1], (int, float)) else 0
    if len(moved) != 1 or pairs.count((1, -1)) != 1 or frozenset(moved) != form or value:
        return None
    return shift(builder, operands(node)[0], node, moved[0], 0.0)


def joined_shift(builder: Any, node: fx.Node, form: Form) -> fx.Node | None:
    """A constant in front of all but the last token."""
    parts, dim = operands(node), place_of(node, 1)
    if len(parts) != 2 or form != {dim}:
        return None
    first, rest = parts
    if opname(first) not in ("full_like", "zeros_like") or opname(rest) != "slice":
        return None
    source, place = operands(rest)[0], rest.args[1:]
    if [*place, 1][:4] != [dim, 0, -1, 1] or shape_of(source)[dim] != SEQUENCE or shape_of(first)[dim] != 1:
        return None
    return shift(builder, source, node, dim, float(argument(first, 1)) if opname(first) == "full_like" else 0.0)


def shift(builder: Any, source: fx.Node, node: fx.Node, dim: int, first: float) -> fx.Node:
    """What the token before had; `first` for the first one of the text."""
    form = frozenset({dim})
    rows = builder.emit(source, form)
    before, last = one_row(builder, rows, node, dim)
    type_ = builder.type_of(node, form)
    name, state = builder.hold(node, "conv", before)
    builder.presents[name] = last
    most = builder.add(_aten.slice.Tensor, (rows, dim, 0, -1), node, resized(type_, dim, SEQUENCE - 1))
    moved = builder.add(_aten.cat.default, ([state, most], dim), node, type_)
    if first == 0:
        return moved  # type: ignore[no-any-return]
    shape = tuple(SEQUENCE if d == dim else 1 for d in range(len(type_.shape)))
    begins = beginning(builder, node, shape)
    return builder.add(_aten.masked_fill.Scalar, (moved, begins, first), node, type_)  # type: ignore[no-any-return]


def beginning(builder: Any, node: fx.Node, shape: tuple[Any, ...]) -> fx.Node:
    """True for the first token of the text, of this shape with the new tokens in one dimension."""
    total = builder.size(SEQUENCE, whole=True)
    whole = TensorType(torch.int64, (total.meta["value"],))
    places = builder.add(_aten.arange.default, (total,), node, whole)
    past = builder.past()
    new = builder.add(_aten.slice.Tensor, (places, 0, past, _END), node, resized(whole, 0, SEQUENCE))
    first = builder.add(_aten.eq.Scalar, (new, 0), node, TensorType(torch.bool, (SEQUENCE,)))
    sizes = [builder.size(size, whole=False) for size in shape]
    return builder.add(_aten.reshape.default, (first, sizes), node, TensorType(torch.bool, shape))  # type: ignore[no-any-return]


def cumulative_sum(builder: Any, node: fx.Node, form: Form) -> fx.Node | None:
    dim = place_of(node, 1)
    if form != {dim}:
        return None
    rows = builder.emit(operands(node)[0], form)
    type_ = builder.type_of(node, form)
    sums = builder.add(node.target, (rows, *node.args[1:]), node, type_)
    name, state = builder.hold(node, "recurrent", resized(type_, dim, 1))
    result = builder.add(_aten.add.Tensor, (sums, state), node, type_)
    _, builder.presents[name] = one_row(builder, result, node, dim)
    return result  # type: ignore[no-any-return]


def running_maximum(builder: Any, node: fx.Node, form: Form) -> fx.Node | None:
    """The values of cummax. Zeros stand for nothing so far only where what follows counts nothing below zero."""
    source: Any = node.args[0]
    if opname(source) != "cummax" or node.args[1] != 0:
        return None
    dim = int(source.args[1]) % len(shape_of(node))
    if form != {dim}:
        return None
    rows = builder.emit(operands(source)[0], form)
    pair = builder.add(source.target, (rows, dim), node, builder.type_of(source, form))
    type_ = builder.type_of(node, form)
    values = builder.add(operator.getitem, (pair, 0), node, type_)
    name, state = builder.hold(node, "recurrent", resized(type_, dim, 1))
    if not all(opname(user) == "clamp" and user.args[1:2] and user.args[1] >= 0 for user in node.users):  # type: ignore[operator]
        shape = tuple(SEQUENCE if d == dim else 1 for d in range(len(type_.shape)))
        begins = beginning(builder, node, shape)
        first = builder.add(_aten.slice.Tensor, (begins, dim, 0, 1), node, resized(begins.meta["value"], dim, 1))
        state = builder.add(_aten.masked_fill.Scalar, (state, first, -math.inf), node, resized(type_, dim, 1))
    result = builder.add(_aten.maximum.default, (values, state), node, type_)
    _, builder.presents[name] = one_row(builder, result, node, dim)
    return result  # type: ignore[no-any-return]


def window(builder: Any, node: fx.Node, form: Form) -> fx.Node | None:
    """A causal convolution: padded on both sides, and what hangs over at the end cut off."""
    convolution: Any = node.args[0]
    if opname(convolution) != "conv1d" or form != {2} or list(node.args[1:3]) not in ([2, 0], [2, None]):
        return None
    weight = operands(convolution)[1]
    options = [*convolution.args[3:], *([1], [0], [1], 1)[len(convolution.args) - 3 :]]
    width = int(shape_of(weight)[2]) - 1
    if [list(options[0]), list(options[1]), list(options[2])] != [[1], [width], [1]] or shape_of(node)[2] != SEQUENCE:
        return None
    source = operands(convolution)[0]
    rows = builder.emit(source, form)
    others = [builder.emit(x, frozenset()) if isinstance(x, fx.Node) else x for x in convolution.args[1:3]]
    type_ = builder.type_of(source, form)
    name, state = builder.hold(node, "conv", resized(type_, 2, width))
    joined = builder.add(_aten.cat.default, ([state, rows], 2), node, resized(type_, 2, SEQUENCE + width))
    kept = builder.add(_aten.slice.Tensor, (joined, 2, -width, _END), node, resized(type_, 2, width))
    builder.presents[name] = kept
    call = (joined, *others, options[0], [0], options[2], options[3])
    return builder.add(convolution.target, call, node, builder.type_of(node, form))  # type: ignore[no-any-return]


def one_row(builder: Any, rows: fx.Node, node: fx.Node, dim: int) -> tuple[TensorType, fx.Node]:
    """The last of some rows, and its type."""
    type_ = resized(rows.meta["value"], dim, 1)
    return type_, builder.add(_aten.slice.Tensor, (rows, dim, -1, _END), node, type_)


def resized(type_: TensorType, dim: int, size: Any) -> TensorType:
    return TensorType(type_.dtype, tuple(size if d == dim else s for d, s in enumerate(type_.shape)))


HELD: Mapping[str, Held] = {
    "linear_recurrence": recurrence,
    "pad": padded_shift,
    "constant_pad_nd": padded_shift,
    "cat": joined_shift,
    "cumsum": cumulative_sum,
    "slice": window,
    "getitem": running_maximum,
}


def held(builder: Any, node: fx.Node, form: Form) -> fx.Node | None:
    """The node that goes on from a state of a fixed size, where the call is of that kind."""
    found = HELD.get(call_name(node))
    return found(builder, node, form) if found is not None and form else None
