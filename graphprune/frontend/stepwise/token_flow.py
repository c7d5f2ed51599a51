"""Token flow: where the tokens of a text lie in the values of a graph, and what depends on them."""

from collections.abc import Sequence
from typing import Any

import sympy
from torch import fx

from graphprune.ir.operators import opname
from graphprune.ir.sizes import symbol
from graphprune.ir.types import Size, TensorType

Form = frozenset[int]  # dimensions along which only the new tokens are asked for
WHOLE: Form = frozenset()
SEQUENCE, PAST = symbol("sequence"), symbol("past")
TOTAL = PAST + SEQUENCE
# Calls that only repeat or rearrange their operand: it is the operand that is kept.
_REPEATING = {"expand", "unsqueeze", "repeat_interleave"}
_ARRANGING = {"reshape", "clone", "_to_copy"}
LIKE = {"zeros_like": 0, "ones_like": 1, "full_like": None}  # constants: their operand gives shape and type alone


def operands(node: fx.Node) -> list[fx.Node]:
    """The tensors (or tuples of tensors) that a call reads, in order and with repetitions."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), lambda n: found.append(n) if is_tensor(n) else None)
    return found


def is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("value"), (TensorType, tuple))


def shape_of(node: fx.Node) -> tuple[Size, ...]:
    """The shape of a tensor; of a tuple that of its first entry."""
    value = node.meta["value"]
    while isinstance(value, tuple):
        value = value[0]
    return value.shape  # type: ignore[no-any-return]


def has_tokens(size: Size) -> bool:
    return isinstance(size, sympy.Expr) and SEQUENCE in size.free_symbols


def token_dims(node: fx.Node) -> Form:
    return frozenset(d for d, size in enumerate(shape_of(node)) if has_tokens(size))


def argument(node: fx.Node, index: int, default: Any = None) -> Any:
    return node.args[index] if len(node.args) > index else default


def place_of(node: fx.Node, index: int) -> int:
    """The dimension of the result that an argument names, counted from the front; the first where it names none."""
    return int(argument(node, index, 0)) % len(shape_of(node))


def dependents(source: fx.Node) -> set[fx.Node]:
    """What is computed of the values of an input, as opposed to its sizes."""
    found, left = {source}, [source]
    while left:
        users = [user for user in left.pop().users if is_tensor(user) and user.op != "output"]
        new = [user for user in users if user not in found and opname(user) not in LIKE]
        found.update(new)
        left += new
    return found


def bottlenecks(nodes: Sequence[fx.Node], depends: set[fx.Node]) -> list[fx.Node]:
    """Values of each token that all that comes after them is computed from: the residual stream between blocks."""
    place = {node: index for index, node in enumerate(nodes)}
    last = {node: max((place[user] for user in node.users), default=0) for node in depends}
    found, live = list[fx.Node](), set[fx.Node]()
    for node in nodes:
        if node in depends:
            live = {other for other in live if last[other] > place[node]} | {node}
            plain = isinstance(node.meta["value"], TensorType) and shape_of(node).count(SEQUENCE) == 1
            if live == {node} and plain and len(token_dims(node)) == 1:
                found.append(node)
    return found


def passes(node: fx.Node) -> bool:
    """Say whether a call only repeats its operand, as keys are for the queries of their group."""
    if opname(node) in _REPEATING:
        return True
    return opname(node) in _ARRANGING and opname(operands(node)[0]) in _REPEATING


def unchanged_operand(node: fx.Node) -> fx.Node | None:
    """What a call returns as it is: a slice of all that there is, something joined with nothing."""
    if opname(node) == "slice" and shape_of(node) == shape_of(operands(node)[0]):
        return operands(node)[0]
    full = [x for x in operands(node) if 0 not in shape_of(x)] if opname(node) == "cat" else []
    return full[0] if len(full) == 1 and shape_of(full[0]) == shape_of(node) else None


def restricted(value: Any, form: Form) -> Any:
    """A type of the old graph with the new tokens along some dimensions and the whole text along the others."""
    if isinstance(value, tuple):
        return tuple(restricted(part, form) for part in value)
    if not isinstance(value, TensorType):
        return value
    sizes = [s if d in form or not has_tokens(s) else s.xreplace({SEQUENCE: TOTAL}) for d, s in enumerate(value.shape)]  # type: ignore[union-attr]
    return TensorType(value.dtype, tuple(sizes))
