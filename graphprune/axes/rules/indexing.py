"""Indexing: an integer tensor carries the axis that its values point into."""

import math

import torch
from torch import fx

from graphprune.axes.algebra import subtract
from graphprune.axes.inference import Axes, Call, Changes, NodeAxes, Resizer, Rule
from graphprune.axes.rules.attention import lock_static
from graphprune.axes.rules.shape import resize_sizes
from graphprune.ir.types import Size, tensor_type

_CHOSEN = "the best ones are chosen from it"


def embedding(call: Call) -> Axes:
    """Rows of a table picked by ids: the ids' values point into the rows."""
    rows, columns = call.axes(call["weight"])
    call.point(call["indices"], rows)
    return (*call.axes(call["indices"]), columns)


def resize_embedding(call: Call, resizer: Resizer) -> Changes:
    """The row of the padding token has another number, or is no more."""
    padding = call["padding_idx"]
    if padding < 0:
        return {}
    return {"padding_idx": resizer.place(call.axes(call["weight"])[0], padding)}


def index(call: Call) -> Axes:
    """`x[i, :, j]`: dimensions with an index tensor are replaced by the indices' own, broadcast together."""
    axes, picks = call.axes(call["self"]), list(call["indices"])
    picks += [None] * (len(axes) - len(picks))
    nodes = [n for n in picks if n is not None]
    if any(tensor_type(n).dtype in (torch.bool, torch.uint8) for n in nodes):
        call.lock(axes, "picked from by a mask")
        return call.locked(call.out.shape, "picked from by a mask")
    for axis, node in zip(axes, picks, strict=True):
        if node is not None and isinstance(call.algebra.size(axis), int):
            call.point(node, axis)
    kept = [a for a, n in zip(axes, picks, strict=True) if n is None]
    rank = max(len(call.shape(n)) for n in nodes)
    positions = [d for d, n in enumerate(picks) if n is not None]
    adjacent = positions == list(range(positions[0], positions[-1] + 1))
    start = positions[0] if adjacent else 0
    chosen = indices_axes(call, nodes, call.out.shape[start : start + rank])
    return (*kept[:start], *chosen, *kept[start:])


def indices_axes(call: Call, nodes: list[fx.Node], shape: tuple[Size, ...]) -> Axes:
    """The broadcast axes of index tensors."""
    result = []
    for position in range(-len(shape), 0):
        fitting = [
            call.axes(n)[position]
            for n in nodes
            if -position <= len(call.shape(n)) and call.shape(n)[position] == shape[position]
        ]
        for other in fitting[1:]:
            call.unify(fitting[0], other)
        result.append(fitting[0] if fitting else call.algebra.fresh(shape[position]))
    return tuple(result)


def gather(call: Call) -> Axes:
    """Along one dimension the index picks; along the others it runs with the source."""
    axes, picked = call.axes(call["self"]), call.axes(call["index"])
    dim = call["dim"] % len(axes)
    for d, (a, b) in enumerate(zip(axes, picked, strict=True)):
        if d != dim and call.shape(call["self"])[d] == call.shape(call["index"])[d]:
            call.unify(a, b)
        elif d != dim:
            call.lock((a, b), "gathered from a part of it")
    if isinstance(call.algebra.size(axes[dim]), int):
        call.point(call["index"], axes[dim])
    return picked


def index_select(call: Call) -> Axes:
    axes = call.axes(call["self"])
    dim = call["dim"] % len(axes)
    call.point(call["index"], axes[dim])
    return (*axes[:dim], *call.axes(call["index"]), *axes[dim + 1 :])


def pad(call: Call) -> Axes:
    """Entries are added at the ends of dimensions, which `pad` gives in pairs from the last one on."""
    axes, reason = call.axes(call["self"]), "padded"
    grown = {len(axes) - 1 - place // 2 for place, count in enumerate(call["pad"]) if count != 0}
    lock_static(call, tuple(axes[dim] for dim in grown), reason)
    return tuple(call.locked((call.out.shape[d],), reason)[0] if d in grown else a for d, a in enumerate(axes))


def unfold(call: Call) -> Axes:
    """Windows along one dimension; what each of them holds becomes the last one."""
    axes = call.axes(call["self"])
    dim, reason = call["dimension"] % len(axes), "cut into windows"
    lock_static(call, (axes[dim],), reason)
    return (
        *axes[:dim],
        *call.locked((call.out.shape[dim],), reason),
        *axes[dim + 1 :],
        *call.locked((call["size"],), reason),
    )


def topk(call: Call) -> NodeAxes:
    """The best k of an axis: values, and indices that point into it."""
    axes = call.axes(call["self"])
    dim = (call["dim"] if call["dim"] is not None else -1) % len(axes)
    call.reduce(call["self"], [dim], math.inf if call["largest"] is False else -math.inf, _CHOSEN)
    slots = call.algebra.fresh(call.node.meta["value"][0].shape[dim])
    call.note(slots)
    result = (*axes[:dim], slots, *axes[dim + 1 :])
    pointers = [user for user in call.node.users if user.args[1] == 1]
    call.choose(axes[dim], slots, bool(pointers))
    for user in pointers:
        call.set_index(user, axes[dim])
    return (result, result)


def resize_topk(call: Call, resizer: Resizer) -> Changes:
    """No more are chosen than there are."""
    return {"k": resizer.argument(call.noted()[0], call["k"])}


def scatter(call: Call) -> Axes:
    """Along one dimension the index says where to write; along the others it runs with what is written to."""
    axes, picked = call.axes(call["self"]), call.axes(call["index"])
    dim = call["dim"] % len(axes)
    for d, (a, b) in enumerate(zip(axes, picked, strict=True)):
        if d != dim and call.shape(call["self"])[d] == call.shape(call["index"])[d]:
            call.unify(a, b)
        elif d != dim:
            call.lock((a, b), "scattered to a part of it")
    if isinstance(call.algebra.size(axes[dim]), int):
        call.point(call["index"], axes[dim])
    # What is chosen are different entries: where fewer are left, the others point at entries that are gone.
    call.reduce(call["index"], [dim], None, "written to where it points")
    if call["src"] is not None:
        call.unify_all(picked, call.axes(call["src"]))
    return axes


def index_add(call: Call) -> Axes:
    """Rows are added where the index points; along the other dimensions what is added runs with the rest."""
    axes, added = call.axes(call["self"]), call.axes(call["source"])
    dim = call["dim"] % len(axes)
    for d, (a, b) in enumerate(zip(axes, added, strict=True)):
        if d != dim:
            call.unify(a, b)
    call.unify(call.axes(call["index"])[0], added[dim])
    call.reduce(call["source"], [dim], 0.0, "added to where the index points")
    if isinstance(call.algebra.size(axes[dim]), int):
        call.point(call["index"], axes[dim])
    return axes


def one_hot(call: Call) -> Axes:
    """A new last dimension, as long as the axis that the values point into, or longer by a class for nothing."""
    axes, known = call.axes(call["self"]), call.index_of(call["self"])
    size = call.out.shape[-1]
    if known is None:
        return (*axes, *call.locked((size,), "made by one_hot of computed indices"))
    algebra = call.algebra
    more = subtract(size, algebra.size(known))
    fits = isinstance(more, int) and more >= 0
    classes = algebra.concat((known, algebra.fresh(more))) if fits and more else known
    if not fits:
        call.lock((known,), "one_hot has fewer classes")
        classes = call.locked((size,), "made by one_hot")[0]
    call.note(classes)
    return (*axes, classes)


def resize_one_hot(call: Call, resizer: Resizer) -> Changes:
    return {"num_classes": resizer.size(call.noted()[0])} if call.node in call.state.notes else {}


def create(call: Call) -> Axes:
    """A tensor made of equal entries has axes of its own, free to follow what they meet."""
    return call.fresh(call.out.shape)


def count(call: Call) -> Axes:
    """A counted range: its values are positions, which removing units would shift."""
    axes = call.fresh(call.out.shape)
    lock_static(call, axes, "positions are counted along it")
    return axes


RULES = {
    "aten.embedding": Rule(embedding, resize_embedding),
    "aten.index": Rule(index),
    "aten.gather": Rule(gather),
    "aten.index_select": Rule(index_select),
    "aten.topk": Rule(topk, resize_topk),
    "aten.unfold": Rule(unfold),
    **{f"aten.{name}": Rule(pad) for name in ("pad", "constant_pad_nd")},
    "aten.scatter": Rule(scatter),
    "aten.index_add": Rule(index_add),
    "aten.one_hot": Rule(one_hot, resize_one_hot),
    "aten.arange": Rule(count),
    "aten.scalar_tensor": Rule(create),
    **{
        f"aten.{name}": Rule(create, resize_sizes("size"))
        for name in ("full", "zeros", "ones", "new_ones", "new_zeros", "new_full")
    },
}
