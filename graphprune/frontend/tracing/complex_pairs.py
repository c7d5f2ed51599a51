"""Complex numbers at capture: each complex tensor becomes two real ones, its real and its imaginary part.

ONNX has no complex operators, and axis rules need none this way: the two halves of a rotary pair meet in plain
products and sums. A graph with a complex call that is not listed here is left as it is, whole.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from graphprune.frontend.tracing.draft import Draft
from graphprune.ir.operators import opname
from graphprune.ir.types import TensorType

_aten = torch.ops.aten
Pair = tuple[fx.Node, fx.Node]
# Calls that move entries and compute nothing: done to each part.
_MOVES = frozenset(
    {"unsqueeze", "squeeze", "reshape", "view", "expand", "transpose", "permute", "slice", "select", "t", "flatten"}
    | {"cat", "stack", "index", "index_select", "gather", "repeat", "repeat_interleave", "clone", "neg", "flip"}
)


def complex_to_pairs(draft: Draft) -> int:
    """Rewrite every call that takes or returns complex tensors in real ones; none, where one is not known. How many."""
    graph = draft.graph
    touched = [node for node in graph.nodes if is_complex(node) or any(map(is_complex, node.all_input_nodes))]
    if not touched or any(not is_known(node) for node in touched):
        return 0
    pairs: dict[fx.Node, Pair] = {}
    for node in touched:
        with graph.inserting_before(node):
            result = rewritten(Writer(graph, node), node, pairs)
        if is_complex(node):
            pairs[node] = result
        else:
            node.replace_all_uses_with(result)
    for node in reversed(touched):
        graph.erase_node(node)
    return len(touched)


def is_complex(argument: Any) -> bool:
    """Say whether this is a complex number, or the node of a complex tensor."""
    value = argument.meta.get("value") if isinstance(argument, fx.Node) else argument
    return isinstance(value, complex) or (isinstance(value, TensorType) and value.dtype.is_complex)


def is_known(node: fx.Node) -> bool:
    name = opname(node)
    if name not in _MOVES and name not in _CALLS:
        return False
    if name == "div" and (
        isinstance(node.args[1], complex) or (isinstance(node.args[1], fx.Node) and is_complex(node.args[1]))
    ):
        return False
    made = name in ("view_as_complex", "polar", "complex")
    return "alpha" not in node.kwargs and (made or any(map(is_complex, node.all_input_nodes)))


class Writer:
    """Writes real calls in place of one complex call; a result has the call's shape unless another is given."""

    def __init__(self, graph: fx.Graph, node: fx.Node) -> None:
        self.graph, self.meta = graph, node.meta

    def __call__(self, target: Any, *args: Any, shape: Any = None, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        value = self.meta["value"]
        node.meta = {**self.meta, "value": TensorType(real_type(value.dtype), value.shape if shape is None else shape)}
        return node


def real_type(dtype: torch.dtype) -> torch.dtype:
    """The element type of a complex type's parts."""
    return torch.empty(0, dtype=dtype, device="meta").real.dtype if dtype.is_complex else dtype


def rewritten(write: Writer, node: fx.Node, pairs: Mapping[fx.Node, Pair]) -> Any:
    """The pair that stands for the call's result, or the node where the result is real."""
    name = opname(node)
    if name in _MOVES:
        return tuple(write(node.target, *part_of(node.args, pairs, i), **node.kwargs) for i in (0, 1))
    return _CALLS[name](write, *(operand(argument, pairs) for argument in node.args))


def operand(argument: Any, pairs: Mapping[fx.Node, Pair]) -> Any:
    """A complex tensor or number as its two parts; anything else as it is."""
    if isinstance(argument, complex):
        return argument.real, argument.imag
    return pairs.get(argument, argument) if isinstance(argument, fx.Node) else argument


def part_of(args: Any, pairs: Mapping[fx.Node, Pair], index: int) -> Any:
    """The arguments with each complex tensor replaced by one of its parts."""
    return fx.node.map_arg(args, lambda n: pairs[n][index] if n in pairs else n)


def from_last(write: Writer, value: fx.Node) -> Pair:
    return write(_aten.select.int, value, -1, 0), write(_aten.select.int, value, -1, 1)


def to_last(write: Writer, value: Pair) -> fx.Node:
    return write(_aten.stack.default, list(value), -1)


def polar(write: Writer, radius: fx.Node, angle: fx.Node) -> Pair:
    shape = angle.meta["value"].shape
    parts = (write(f.default, angle, shape=shape) for f in (_aten.cos, _aten.sin))
    cosine, sine = (write(_aten.mul.Tensor, radius, part) for part in parts)
    return cosine, sine


def multiply(write: Writer, left: Any, right: Any) -> Pair:
    """(a + bi)(c + di) = (ac - bd) + (ad + bc)i; a real factor scales both parts."""
    if not isinstance(left, tuple):
        left, right = right, left
    (a, b), mul = left, _aten.mul.Tensor
    if not isinstance(right, tuple):
        return write(mul, a, right), write(mul, b, right)
    c, d = right
    real = write(_aten.sub.Tensor, write(mul, a, c), write(mul, b, d))
    return real, write(_aten.add.Tensor, write(mul, a, d), write(mul, b, c))


def divide(write: Writer, left: Any, right: Any) -> Pair:
    """By a real number or tensor. `is_known` says no to a complex one."""
    return write(_aten.div.Tensor, left[0], right), write(_aten.div.Tensor, left[1], right)


def together(target: Any) -> Callable[..., Pair]:
    """Sum or difference, part by part; a real operand has an imaginary part of zero."""

    def combine(write: Writer, left: Any, right: Any) -> Pair:
        one, other = as_pair(write, left), as_pair(write, right)
        return write(target, one[0], other[0]), write(target, one[1], other[1])

    return combine


def as_pair(write: Writer, value: Any) -> Any:
    if isinstance(value, tuple):
        return value
    number = not isinstance(value, fx.Node)
    return value, 0.0 if number else write(_aten.zeros_like.default, value, shape=value.meta["value"].shape)


def conjugate(write: Writer, value: Pair) -> Pair:
    return value[0], write(_aten.neg.default, value[1])


def modulus(write: Writer, value: Pair) -> fx.Node:
    real, imaginary = (write(_aten.mul.Tensor, part, part) for part in value)
    return write(_aten.sqrt.default, write(_aten.add.Tensor, real, imaginary))


_CALLS: Mapping[str, Callable[..., Any]] = {
    "view_as_complex": from_last,
    "view_as_real": to_last,
    "polar": polar,
    "complex": lambda write, real, imaginary: (real, imaginary),
    "mul": multiply,
    "div": divide,
    "add": together(_aten.add.Tensor),
    "sub": together(_aten.sub.Tensor),
    "abs": modulus,
    "real": lambda write, value: value[0],
    "imag": lambda write, value: value[1],
    **dict.fromkeys(("_conj", "conj", "conj_physical"), conjugate),
    **dict.fromkeys(("resolve_conj", "resolve_neg"), lambda write, value: value),
}
