"""Token rules: which rows of its operands a call needs to give some rows of its result, for calls on whole texts.

A form names the dimensions of a tensor along which only the new tokens are asked for; along its other token dimensions
the whole text is there. A rule takes a call and the form of its result and gives the forms of its operands, in the
order of `operands`, or None where the call mixes tokens along an asked dimension: it then needs the whole text.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sympy
from torch import fx

from graphprune.axes.rules import elementwise
from graphprune.frontend.stepwise.token_flow import (
    WHOLE,
    Form,
    argument,
    has_tokens,
    operands,
    place_of,
    shape_of,
    token_dims,
)
from graphprune.ir.operators import opname
from graphprune.ir.types import Size

TokenRule = Callable[[fx.Node, Form], list[Form] | None]


def broadcast(node: fx.Node, form: Form) -> list[Form]:
    return [aligned(operand, len(shape_of(node)), form) for operand in operands(node)]


def aligned(operand: fx.Node, rank: int, form: Form) -> Form:
    """A form of a result of this rank as that of an operand that is broadcast to it."""
    offset = rank - len(shape_of(operand))
    return frozenset(d - offset for d in form if d >= offset) & token_dims(operand)


def dims_argument(node: fx.Node, index: int) -> Form | None:
    """The dimensions that a call names, counted from the front; None where it names none: all."""
    dims: Any = argument(node, index, node.kwargs.get("dim"))
    rank = len(shape_of(operands(node)[0]))
    found = dims if isinstance(dims, (list, tuple)) else [dims]
    return None if dims is None else frozenset(int(d) % rank for d in found)


def along(index: int) -> TokenRule:
    """The rule of calls that mix along the dimension in one argument, or the last, and keep the rank: softmax, topk."""

    def rule(node: fx.Node, form: Form) -> list[Form] | None:
        mixed = dims_argument(node, index) or {len(shape_of(node)) - 1}
        return None if mixed & form else [form]

    return rule


def reduction(index: int) -> TokenRule:
    """The rule of sums and means: the reduced dimensions are gone, or of size one."""

    def rule(node: fx.Node, form: Form) -> list[Form] | None:
        source = operands(node)[0]
        mixed = dims_argument(node, index)
        if mixed is None:
            return None
        kept = [d for d in range(len(shape_of(source))) if d not in mixed]
        left = dict(enumerate(kept)) if len(shape_of(node)) == len(kept) else {d: d for d in kept}
        return [frozenset(left[d] for d in form)] if form <= set(left) else None

    return rule


def layer_norm(node: fx.Node, form: Form) -> list[Form] | None:
    first = len(shape_of(node)) - len(argument(node, 1))
    return None if any(d >= first for d in form) else [form, *[WHOLE] * (len(operands(node)) - 1)]


def linear(node: fx.Node, form: Form) -> list[Form] | None:
    last = len(shape_of(node)) - 1
    return None if last in form else [form, *[WHOLE] * (len(operands(node)) - 1)]


def product(node: fx.Node, form: Form) -> list[Form] | None:
    """matmul, bmm, and with a summand in front addmm and baddbmm: [..., i, k] by [..., k, j]."""
    *summand, left, right = operands(node)
    rank = len(shape_of(node))
    if min(len(shape_of(left)), len(shape_of(right))) < 2:
        return None
    rows, columns = form - {rank - 1}, form - {rank - 2}
    forms = [aligned(left, rank, rows), aligned(right, rank, columns)]
    return [*(aligned(s, rank, form) for s in summand), *forms]


def einsum(node: fx.Node, form: Form) -> list[Form] | None:
    found = re.fullmatch(r"([a-zA-Z,]+)->([a-zA-Z]+)", str(node.args[0]).replace(" ", ""))
    if found is None:
        return None
    asked = {found[2][d] for d in form}
    return [frozenset(d for d, letter in enumerate(term) if letter in asked) for term in found[1].split(",")]


def attention(node: fx.Node, form: Form) -> list[Form] | None:
    """scaled_dot_product_attention: the rows of queries and of the mask; all keys and values."""
    rank = len(shape_of(node))
    if rank - 1 in form:
        return None
    if dict(zip(range(6), node.args, strict=False)).get(5) or node.kwargs.get("is_causal"):
        return None
    query, key, value, *mask = operands(node)
    batch = form - {rank - 2}
    keys = [aligned(x, rank, batch) for x in (key, value)]
    return [aligned(query, rank, form), *keys, *(aligned(m, rank, form) for m in mask)]


def embedding(node: fx.Node, form: Form) -> list[Form] | None:
    return None if len(shape_of(node)) - 1 in form else [WHOLE, form]


def reshape(node: fx.Node, form: Form) -> list[Form] | None:
    """Dimensions that are split or joined with others: the token dimension of each such part, if it has one."""
    source = operands(node)[0]
    found: set[int] = set()
    for before, after in parts(shape_of(source), shape_of(node)):
        asked = [d for d in after if d in form]
        tokens = [d for d in before if has_tokens(shape_of(source)[d])]
        if asked and (len(asked) != 1 or len(tokens) != 1):
            return None
        found.update(tokens if asked else ())
    return [frozenset(found)]


def parts(before: tuple[Size, ...], after: tuple[Size, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """Runs of dimensions of two shapes that hold the same number of elements."""
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i][: len(before) - i], [j][: len(after) - j]
        i, j = i + len(left), j + len(right)
        while sympy.expand(volume(before, left) - volume(after, right)) != 0:
            grow_left = i < len(before) and (j >= len(after) or not divides(volume(before, left), volume(after, right)))
            if grow_left or j >= len(after):
                if i >= len(before):
                    return
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        yield left, right


def divides(whole: Any, part: Any) -> bool:
    """Say whether the elements of `whole` are a multiple of those of `part`, so that `part` is to grow."""
    return (
        not sympy.fraction(sympy.cancel(whole / part))[1].free_symbols and sympy.cancel(whole / part).is_integer is True
    )


def volume(shape: tuple[Size, ...], dims: list[int]) -> Any:
    return sympy.prod([sympy.sympify(shape[d]) for d in dims])


def permuted(node: fx.Node, form: Form) -> list[Form]:
    order: Any = node.args[1]
    return [frozenset(int(order[d]) % len(order) for d in form)]


def transposed(node: fx.Node, form: Form) -> list[Form]:
    rank = len(shape_of(node))
    a, b = (int(argument(node, index)) % rank for index in (1, 2))
    swap = {a: b, b: a}
    return [frozenset(swap.get(d, d) for d in form)]


def unsqueezed(node: fx.Node, form: Form) -> list[Form]:
    place = place_of(node, 1)
    return [frozenset(d - (d > place) for d in form if d != place)]


def dropped(node: fx.Node, form: Form) -> list[Form] | None:
    """Select and squeeze: a dimension of the operand is gone."""
    source = operands(node)[0]
    rank = len(shape_of(source))
    if len(node.args) < 2 or len(shape_of(node)) != rank - 1:
        return None
    place = int(argument(node, 1)) % rank
    return [frozenset(d + (d >= place) for d in form)]


def sliced(node: fx.Node, form: Form) -> list[Form] | None:
    place = place_of(node, 1)
    return None if place in form else [form]


def joined(node: fx.Node, form: Form) -> list[Form] | None:
    place = place_of(node, 1)
    return None if place in form else [form & token_dims(operand) for operand in operands(node)]


def stacked(node: fx.Node, form: Form) -> list[Form]:
    place = place_of(node, 1)
    return [frozenset(d - (d > place) for d in form if d != place) for _ in operands(node)]


def split(node: fx.Node, form: Form) -> list[Form] | None:
    place = place_of(node, 2)
    return None if place in form else [form]


def expanded(node: fx.Node, form: Form) -> list[Form]:
    return [aligned(operand, len(shape_of(node)), form) for operand in operands(node)]


def gathered(node: fx.Node, form: Form) -> list[Form]:
    """Gather and index_select along one dimension; the rest is as in the result."""
    source, index = operands(node)
    place = int(argument(node, 1)) % len(shape_of(source))
    rank = len(shape_of(index))
    own = form if rank == len(shape_of(node)) and rank > 1 else frozenset({0} if place in form else ())
    return [(form - {place}) & token_dims(source), own & token_dims(index)]


def picked(node: fx.Node, form: Form) -> list[Form] | None:
    """Index with tensors for the first dimensions: these are broadcast against each other."""
    given: Any = node.args[1]
    indices = operands(node)[1:]
    if any(index is None for index in given):
        return None
    rank = max(len(shape_of(index)) for index in indices)
    front = frozenset(d for d in form if d < rank)
    rest = frozenset(d - rank + len(indices) for d in form if d >= rank)
    return [rest, *(aligned(index, rank, front) for index in indices)]


def item(node: fx.Node, form: Form) -> list[Form]:
    return [form]


def made(node: fx.Node, form: Form) -> list[Form]:
    """Constants of a size of their own; an operand gives its type alone, so that its new tokens are enough."""
    return [token_dims(operand) for operand in operands(node)]


def triangle(node: fx.Node, form: Form) -> list[Form] | None:
    rank = len(shape_of(node))
    return None if form & {rank - 1, rank - 2} else [form]


def typed_as(node: fx.Node, form: Form) -> list[Form]:
    """The second operand gives its type alone: all that is asked of it are the new tokens."""
    return [form, *(token_dims(operand) for operand in operands(node)[1:])]


RULES: Mapping[str, TokenRule] = {
    **dict.fromkeys((name.removeprefix("aten.") for name in elementwise.RULES), broadcast),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "cumsum", "cummax", "cummin", "sort"), along(1)),
    **dict.fromkeys(("mean", "sum", "var", "amax", "amin", "logsumexp", "argmax", "any", "all"), reduction(1)),
    **dict.fromkeys(("matmul", "bmm", "addmm", "baddbmm", "mm"), product),
    **dict.fromkeys(("reshape", "view"), reshape),
    **dict.fromkeys(("select", "squeeze"), dropped),
    **dict.fromkeys(("gather", "index_select"), gathered),
    **dict.fromkeys(("expand", "expand_as", "repeat"), expanded),
    **dict.fromkeys(("split_with_sizes", "split", "chunk"), split),
    "topk": along(2),
    "repeat_interleave": item,
    "layer_norm": layer_norm,
    "linear": linear,
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
    "embedding": embedding,
    "permute": permuted,
    "transpose": transposed,
    "unsqueeze": unsqueezed,
    "slice": sliced,
    "cat": joined,
    "stack": stacked,
    "index": picked,
    "type_as": typed_as,
    "one_hot": item,
    **dict.fromkeys(("full", "zeros", "ones", "new_full", "new_zeros", "new_ones"), made),
    **dict.fromkeys(("triu", "tril"), triangle),
}


def rule_of(node: fx.Node) -> TokenRule | None:
    """The rule of a call, if there is one."""
    return RULES.get(opname(node), item if node.target is operator.getitem else None)
