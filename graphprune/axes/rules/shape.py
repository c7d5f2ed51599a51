"""Shape: views, transpositions, slices, concatenations. Their integers follow the axes and are computed from them."""

from collections.abc import Callable

from graphprune.axes.algebra import Axis
from graphprune.axes.inference import Axes, Call, Changes, NodeAxes, Resizer, Rule
from graphprune.ir.types import Size

_FULL = 2**63 - 1


def dimension(call: Call, name: str = "dim", rank: int | None = None) -> int:
    """A dimension argument, counted from the front."""
    dim = int(call[name])
    return dim % (len(call.out.shape) if rank is None else rank)


def view(call: Call) -> Axes:
    axes = call.axes(call["self"])
    regrouped = call.algebra.regroup(axes, call.out.shape)
    if regrouped is not None:
        return regrouped
    reason = f"{call.name} to {list(call.out.shape)} cuts through the middle of an axis"
    call.lock(axes, reason)
    return call.locked(call.out.shape, reason)


def resize_sizes(name: str) -> Callable[[Call, Resizer], Changes]:
    """The sizes of the result, where one of its axes changed."""

    def resize(call: Call, resizer: Resizer) -> Changes:
        axes = call.axes(call.node)
        return {name: [resizer.argument(axis, old) for axis, old in zip(axes, call[name], strict=True)]}

    return resize


def view_like(call: Call) -> Axes:
    """Reshape to the shape of another tensor, whose axes are the result's."""
    axes = view(call)
    call.unify_all(axes, call.axes(call["other"]))
    return axes


def expand_like(call: Call) -> Axes:
    axes = expand(call)
    call.unify_all(axes, call.axes(call["other"]))
    return axes


def expand(call: Call) -> Axes:
    source, shape = call.axes(call["self"]), call.out.shape
    old = (1,) * (len(shape) - len(source)) + call.shape(call["self"])
    padded = (None,) * (len(shape) - len(source)) + source
    return tuple(
        axis if axis is not None and before == size else call.algebra.fresh(size)
        for axis, before, size in zip(padded, old, shape, strict=True)
    )


def unsqueeze(call: Call) -> Axes:
    axes = list(call.axes(call["self"]))
    axes.insert(dimension(call), call.algebra.fresh(1))
    return tuple(axes)


def squeeze(call: Call) -> Axes:
    """Every dimension of size one that the call names goes; without a name, all do. A cut to one unit would go too."""
    axes, shape = call.axes(call["self"]), call.shape(call["self"])
    named = call["dim"]
    dims = range(len(shape)) if named is None else [named] if isinstance(named, int) else named
    gone = {d % len(shape) for d in dims if shape[d] == 1}
    kept = [axes[d] for d in dims if isinstance(shape[d], int) and shape[d] != 1]
    call.lock(kept, "a squeeze would remove it where one unit is left")
    return tuple(axis for d, axis in enumerate(axes) if d not in gone)


def transpose(call: Call) -> Axes:
    axes = list(call.axes(call["self"]))
    a, b = dimension(call, "dim0"), dimension(call, "dim1")
    axes[a], axes[b] = axes[b], axes[a]
    return tuple(axes)


def permute(call: Call) -> Axes:
    axes = call.axes(call["self"])
    return tuple(axes[d] for d in call["dims"])


def swap_two(call: Call) -> Axes:
    return call.axes(call["self"])[::-1]


def concatenate(call: Call) -> Axes:
    nodes = [n for n in call["tensors"] if call.shape(n) != (0,)]
    dim = dimension(call)
    first = call.axes(nodes[0])
    for node in nodes[1:]:
        for d, (a, b) in enumerate(zip(first, call.axes(node), strict=True)):
            if d != dim:
                call.unify(a, b)
    joined = join(call, [call.axes(node)[dim] for node in nodes], call.out.shape[dim])
    indexed = [axis for node in nodes if (axis := call.index_of(node)) is not None]
    if not call.out.dtype.is_floating_point and len(indexed) == len(nodes):
        for axis in indexed[1:]:
            call.unify(indexed[0], axis)
        call.set_index(call.node, indexed[0])
    return (*first[:dim], joined, *first[dim + 1 :])


def join(call: Call, parts: list[Axis], size: Size) -> Axis:
    """The concatenation of axes; parts of symbolic length (past and sequence) make a new axis and hold nothing."""
    if isinstance(size, int):
        return call.algebra.concat(parts)
    call.lock([atom for part in parts for atom in call.algebra.atoms(part)], "joined along a symbolic length")
    return call.algebra.fresh(size)


def stack(call: Call) -> Axes:
    nodes = call["tensors"]
    first = list(call.axes(nodes[0]))
    for node in nodes[1:]:
        call.unify_all(first, call.axes(node))
    first.insert(dimension(call), call.locked((len(nodes),), "made by stacking")[0])
    return tuple(first)


def slice_(call: Call) -> Axes:
    """A slice with fixed ends splits its axis; `note` keeps what lies before it and what it keeps."""
    axes = list(call.axes(call["self"]))
    dim = dimension(call)
    size = call.shape(call["self"])[dim]
    start, end, step = call["start"] or 0, call["end"], call["step"]
    if size == call.out.shape[dim]:
        return tuple(axes)
    kept = every_nth(call, axes[dim]) if step != 1 else None
    if call.out.shape[dim] == 0:
        return (*axes[:dim], call.algebra.fresh(0), *axes[dim + 1 :])
    if isinstance(size, int) and isinstance(start, int) and (end is None or isinstance(end, int)) and step == 1:
        kept = cut(call, axes[dim], size, start % size if start < 0 else start, size if end is None else end)
    if kept is None:
        call.lock((axes[dim],), f"sliced with step {step}" if step != 1 else "sliced through the middle of an axis")
        kept = call.locked((call.out.shape[dim],), "a slice")[0]
    axes[dim] = kept
    return tuple(axes)


def cut(call: Call, axis: Axis, size: int, start: int, end: int) -> Axis | None:
    """Split an axis at both ends of a slice; returns the middle."""
    end = min(end if end >= 0 else end + size, size)
    before: Axes = ()
    rest = axis
    if start > 0:
        pair = call.algebra.split(rest, start)
        if pair is None:
            return None
        before, rest = (pair[0],), pair[1]
    if end < size:
        pair = call.algebra.split(rest, end - start)
        if pair is None:
            return None
        rest = pair[0]
    call.note(rest, *before)
    return rest


def every_nth(call: Call, axis: Axis) -> Axis | None:
    """`x[r::n]` with r < n picks from the inner factor of a product, as interleaved rotary does."""
    size, start, step = call.algebra.size(axis), call["start"] or 0, call["step"]
    if not isinstance(size, int) or size % step or not isinstance(start, int) or not 0 <= start < step:
        return None
    pair = call.algebra.factor(axis, size // step) if call.out.shape[dimension(call)] == size // step else None
    if pair is None:
        return None
    call.lock(pair[1:], f"one of every {step} is picked from it")
    call.note(axis)
    return pair[0]


def resize_slice(call: Call, resizer: Resizer) -> Changes:
    if call.node not in call.state.notes:
        return {}
    if call["step"] != 1:
        return {"end": resizer.size(call.noted()[0])}
    kept, *before = call.noted()
    start = sum(resizer.size(axis) for axis in before)
    return {"start": start, "end": start + resizer.size(kept)}


def write_slice(call: Call) -> Axes:
    """What is written and the part of the tensor that it takes the place of lie along the same axes."""
    axes, written = call.axes(call["self"]), call.axes(call["src"])
    dim = dimension(call)
    for d, (a, b) in enumerate(zip(axes, written, strict=True)):
        if d != dim or call.shape(call["src"])[d] == call.out.shape[d]:
            call.unify(a, b)
    size, end = call.out.shape[dim], call["end"]
    if call.shape(call["src"])[dim] == size:
        return axes
    kept, start = None, call["start"] or 0
    if call["step"] == 1 and isinstance(size, int) and isinstance(start, int) and isinstance(end, int | None):
        kept = cut(call, axes[dim], size, start % size if start < 0 else start, size if end is None else end)
    if kept is None:
        call.lock((axes[dim], written[dim]), "written into the middle of an axis")
    else:
        call.unify(kept, written[dim])
    return axes


def split_with_sizes(call: Call) -> NodeAxes:
    axes = call.axes(call["self"])
    dim = dimension(call, rank=len(axes))
    pieces: list[Axis] = []
    rest = axes[dim]
    for size in call["split_sizes"][:-1]:
        pair = split_off(call, rest, size)
        if pair is None:
            call.lock((axes[dim],), "split through the middle of an axis")
            pieces = list(call.locked(call["split_sizes"], "a split"))
            break
        pieces.append(pair[0])
        rest = pair[1]
    else:
        pieces.append(rest)
    call.note(*pieces)
    return tuple((*axes[:dim], piece, *axes[dim + 1 :]) for piece in pieces)


def split_off(call: Call, axis: Axis, size: int) -> tuple[Axis, Axis] | None:
    """The first entries of an axis and the rest, one of which may have none."""
    if size == 0:
        return call.algebra.fresh(0), axis
    if size == call.algebra.size(axis):
        return axis, call.algebra.fresh(0)
    return call.algebra.split(axis, size)


def resize_split(call: Call, resizer: Resizer) -> Changes:
    return {"split_sizes": [resizer.size(axis) for axis in call.noted()]}


def select(call: Call) -> Axes:
    axes = call.axes(call["self"])
    dim = dimension(call, rank=len(axes))
    call.lock((axes[dim],), f"index {call['index']} is picked from it")
    return axes[:dim] + axes[dim + 1 :]


def write_select(call: Call) -> Axes:
    """One index of an axis is written over; the others run with what is written."""
    axes = call.axes(call["self"])
    dim = dimension(call)
    call.lock((axes[dim],), f"index {call['index']} of it is written over")
    call.unify_all(axes[:dim] + axes[dim + 1 :], call.axes(call["src"]))
    return axes


def unbind(call: Call) -> NodeAxes:
    axes = call.axes(call["self"])
    dim = dimension(call, rank=len(axes))
    call.lock((axes[dim],), "taken apart index by index")
    return (axes[:dim] + axes[dim + 1 :],) * len(call.node.meta["value"])


def getitem(call: Call) -> Axes:
    return call.state.outputs[call["0"]][call["1"]]


def repeat(call: Call) -> Axes:
    """Like expand where one is repeated; repeating a longer dimension puts a new axis outside it."""
    axes, repeats = call.axes(call["self"]), call["repeats"]
    lead = len(repeats) - len(axes)
    result = list(call.fresh(call.out.shape[:lead]))
    times = list(result)
    for axis, count, size in zip(axes, repeats[lead:], call.out.shape[lead:], strict=True):
        outer = call.algebra.fresh(count if isinstance(count, int) else 1)
        whole = isinstance(count, int) and call.algebra.size(axis) != 1
        made = axis if count == 1 else call.algebra.product((outer, axis)) if whole else call.algebra.fresh(size)
        result.append(made)
        times.append(outer if whole else made)
    call.note(*times)
    return tuple(result)


def resize_repeat(call: Call, resizer: Resizer) -> Changes:
    pairs = zip(call.noted(), call["repeats"], strict=True)
    return {"repeats": [1 if count == 1 else resizer.argument(axis, count) for axis, count in pairs]}


def repeat_interleave(call: Call) -> Axes:
    """Each index is repeated in place: the axis times a new inner one."""
    axes = call.axes(call["self"])
    if not isinstance(call["repeats"], int) or call["dim"] is None:
        call.lock(axes, "repeated by computed counts")
        return call.locked(call.out.shape, "repeated by computed counts")
    dim = call["dim"] % len(axes)
    times = call.algebra.fresh(call["repeats"])
    repeated = call.algebra.product((axes[dim], times))
    call.note(times, repeated)
    return (*axes[:dim], repeated, *axes[dim + 1 :])


def resize_repeats(call: Call, resizer: Resizer) -> Changes:
    if call.node not in call.state.notes:
        return {}
    times, repeated = call.noted()
    whole = {} if call["output_size"] is None else {"output_size": resizer.argument(repeated, call["output_size"])}
    return {"repeats": resizer.size(times), **whole}


RULES = {
    "aten.repeat_interleave": Rule(repeat_interleave, resize_repeats),
    "aten.view": Rule(view, resize_sizes("size")),
    "aten._unsafe_view": Rule(view, resize_sizes("size")),
    "aten.reshape": Rule(view, resize_sizes("shape")),
    "aten.flatten": Rule(view),
    "aten.reshape_as": Rule(view_like),
    "aten.view_as": Rule(view_like),
    "aten.expand": Rule(expand, resize_sizes("size")),
    "aten.expand_as": Rule(expand_like),
    "aten.unsqueeze": Rule(unsqueeze),
    "aten.squeeze": Rule(squeeze),
    "aten.transpose": Rule(transpose),
    "aten.permute": Rule(permute),
    "aten.t": Rule(swap_two),
    **{f"aten.{name}": Rule(concatenate) for name in ("cat", "concat")},
    "aten.stack": Rule(stack),
    "aten.slice": Rule(slice_, resize_slice),
    "aten.slice_scatter": Rule(write_slice, resize_slice),
    "aten.split_with_sizes": Rule(split_with_sizes, resize_split),
    "aten.select": Rule(select),
    "aten.select_scatter": Rule(write_select),
    "aten.unbind": Rule(unbind),
    "aten.repeat": Rule(repeat, resize_repeat),
    "operator.getitem": Rule(getitem),
}
