"""Contractions: linear maps, matrix products and convolutions sum over one axis of both operands."""

from collections.abc import Sequence

from torch import fx

from graphprune.axes.algebra import Axis
from graphprune.axes.inference import Axes, Call, Changes, Resizer, Rule
from graphprune.axes.rules.attention import lock_static
from graphprune.ir.operators import opname
from graphprune.ir.types import Size


def linear(call: Call) -> Axes:
    x, weight = call.axes(call["input"]), call.axes(call["weight"])
    call.unify(x[-1], weight[1])
    if call["bias"] is not None:
        call.unify(weight[0], call.axes(call["bias"])[0])
    return (*x[:-1], weight[0])


def matmul(call: Call) -> Axes:
    """`[..., n, k] @ [..., k, m]`: k is summed over, leading dimensions broadcast; vectors drop their dimension."""
    first, second = (call["self"], call["other"]) if call["other"] is not None else (call["self"], call["mat2"])
    return product(call, first, second)


def product(call: Call, first: fx.Node, second: fx.Node) -> Axes:
    left, right = call.axes(first), call.axes(second)
    call.unify(left[-1], right[-2] if len(right) > 1 else right[0])
    tail = left[-2:-1] + (right[-1:] if len(right) > 1 else ())
    return (*lead(call, first, second), *tail)


def lead(call: Call, first: fx.Node, second: fx.Node) -> Axes:
    """The broadcast leading dimensions of a batched product."""
    shapes = call.shape(first)[:-2], call.shape(second)[:-2]
    axes = call.axes(first)[:-2], call.axes(second)[:-2]
    rank = max(len(shapes[0]), len(shapes[1]))
    result = []
    for position in range(-rank, 0):
        found = [(s[position], a[position]) for s, a in zip(shapes, axes, strict=True) if -position <= len(s)]
        wide = [axis for size, axis in found if size != 1] or [axis for _, axis in found]
        if len(wide) == 2:
            call.unify(*wide)
        result.append(wide[0])
    return tuple(result)


def einsum(call: Call) -> Axes:
    """Dimensions with one letter are one axis; a letter of only one operand that the result lacks is summed up."""
    operands = call["tensors"]
    terms, result = read_equation(call["equation"], [len(call.shape(node)) for node in operands], len(call.out.shape))
    axes: dict[str, Axis] = {}
    sizes: dict[str, Size] = {}
    for term, node in zip(terms, operands, strict=True):
        for letter, axis, size in zip(term, call.axes(node), call.shape(node), strict=True):
            if letter in axes and size == sizes[letter]:
                call.unify(axes[letter], axis)
            if letter not in axes or sizes[letter] == 1:
                axes[letter], sizes[letter] = axis, size
    for letter, axis in axes.items():
        uses = [term.count(letter) for term in terms if letter in term]
        if max(uses) > 1 or (letter not in result and len(uses) == 1):
            lock_static(call, (axis,), "summed up, or its diagonal taken, by an einsum")
    return tuple(axes[letter] for letter in result)


def read_equation(equation: str, ranks: Sequence[int], rank: int) -> tuple[list[str], str]:
    """The letters of each operand and of the result; dimensions under `...` are numbered from the end, as digits."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    letters = [c for c in left if c.isalpha()]
    if not arrow:  # the letters that occur once, in order
        right = "..." * ("..." in left) + "".join(sorted(c for c in letters if letters.count(c) == 1))

    def fill(term: str, size: int) -> str:
        hidden = size - len(term.replace("...", ""))
        return term.replace("...", "".join(str(d) for d in reversed(range(hidden))))

    terms = [fill(term, size) for term, size in zip(left.split(","), ranks, strict=True)]
    return terms, fill(right, rank)


def addmm(call: Call) -> Axes:
    """`self + mat1 @ mat2`, batched or not; `self` broadcasts."""
    if call["batch1"] is not None:
        result = product(call, call["batch1"], call["batch2"])
    else:
        result = product(call, call["mat1"], call["mat2"])
    shape, axes = call.shape(call["self"]), call.axes(call["self"])
    for position in range(-len(shape), 0):
        if shape[position] == call.out.shape[position]:
            call.unify(axes[position], result[position])
    return result


def convolution(call: Call) -> Axes:
    """Channels are axes, `groups` an outer factor of both; kernel and image positions are locked."""
    x, weight = call.axes(call["input"]), call.axes(call["weight"])
    call.lock(weight[2:], "a convolution's kernel")
    call.lock(x[2:], "image positions of a convolution")
    if opname(call.node).startswith("conv_transpose") or call["transposed"]:
        channels = transposed(call, x[1], weight[0], weight[1], call["groups"])
    else:
        channels = grouped(call, x[1], weight[0], weight[1], call["groups"])
    if call["bias"] is not None:
        call.unify(channels, call.axes(call["bias"])[0])
    return (x[0], channels, *call.locked(call.out.shape[2:], "image positions of a convolution"))


def grouped(call: Call, source: Axis, rows: Axis, columns: Axis, groups: int) -> Axis:
    """Relate input and output channels of a convolution; returns the output's."""
    if groups == 1:
        call.unify(source, columns)
        return rows
    group = call.algebra.fresh(groups)
    call.note(group)
    inner = call.algebra.size(rows)
    assert isinstance(inner, int)
    call.unify(source, call.algebra.product((group, columns)))
    call.unify(rows, call.algebra.product((group, call.algebra.fresh(inner // groups))))
    return rows


def transposed(call: Call, source: Axis, rows: Axis, columns: Axis, groups: int) -> Axis:
    """The same of a transposed convolution: its rows are the input's channels, its columns the output's of a group."""
    call.unify(source, rows)
    if groups == 1:
        return columns
    group = call.algebra.fresh(groups)
    call.note(group)
    inner = call.algebra.size(rows)
    assert isinstance(inner, int)
    call.unify(rows, call.algebra.product((group, call.algebra.fresh(inner // groups))))
    return call.algebra.product((group, columns))


def resize_groups(call: Call, resizer: Resizer) -> Changes:
    return {"groups": resizer.size(call.noted()[0])} if call.node in call.state.notes else {}


RULES = {
    "aten.linear": Rule(linear),
    "aten.matmul": Rule(matmul),
    "aten.einsum": Rule(einsum),
    "aten.mm": Rule(matmul),
    "aten.bmm": Rule(matmul),
    "aten.mv": Rule(lambda call: product(call, call["self"], call["vec"])),
    "aten.addmm": Rule(addmm),
    "aten.baddbmm": Rule(addmm),
    **{f"aten.{n}": Rule(convolution, resize_groups) for n in ("conv1d", "conv2d", "conv3d", "convolution")},
    **{f"aten.conv_transpose{n}d": Rule(convolution, resize_groups) for n in (1, 2, 3)},
}
