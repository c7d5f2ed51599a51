"""Reductions and norms: means mark their axis as averaged over; other reductions lock theirs."""

import math
from collections.abc import Callable

from graphprune.axes.inference import Axes, Call, Changes, NodeAxes, Resizer, Rule
from graphprune.axes.rules.attention import lock_static
from graphprune.axes.rules.elementwise import broadcast
from graphprune.axes.rules.shape import resize_sizes


def reduced(call: Call) -> tuple[Axes, set[int]]:
    """The operand's axes and the dimensions that the call reduces."""
    axes = call.axes(call["self"])
    dims = call["dim"]
    named = range(len(axes)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    return axes, {d % len(axes) for d in named} if axes else set()


def remaining(call: Call, axes: Axes, gone: set[int]) -> Axes:
    if not call["keepdim"]:
        return tuple(a for d, a in enumerate(axes) if d not in gone)
    return tuple(call.algebra.fresh(1) if d in gone else a for d, a in enumerate(axes))


def mean(call: Call) -> Axes:
    axes, gone = reduced(call)
    for d in gone:
        call.average(axes[d])
    return remaining(call, axes, gone)


def locking(reason: str, neutral: float | None = None) -> Callable[[Call], NodeAxes]:
    """A reduction whose result would change for the units that stay, unless a removed one is neutral to it."""

    def infer(call: Call) -> NodeAxes:
        axes, gone = reduced(call)
        if neutral is None:
            lock_static(call, tuple(axes[d] for d in sorted(gone)), reason)
        else:
            call.reduce(call["self"], sorted(gone), neutral, reason)
        rest = remaining(call, axes, gone)
        return (rest,) * len(call.node.meta["value"]) if isinstance(call.node.meta["value"], tuple) else rest

    return infer


def best(neutral: float) -> Callable[[Call], NodeAxes]:
    """The largest or smallest entry along one dimension, and the index that points at it; or the index alone."""

    def infer(call: Call) -> NodeAxes:
        axes, gone = reduced(call)
        call.reduce(call["self"], sorted(gone), neutral, "the largest or smallest is taken")
        rest = remaining(call, axes, gone)
        pair = isinstance(call.node.meta["value"], tuple)
        pointers = [u for u in call.node.users if u.args[1] == 1] if pair else [call.node]
        if len(gone) == 1:
            for dim in gone:
                call.choose(axes[dim], None, bool(pointers))
                for node in pointers:
                    call.set_index(node, axes[dim])
        return (rest, rest) if pair else rest

    return infer


def extreme(neutral: float) -> Callable[[Call], NodeAxes]:
    """`max(x)`, `max(x, dim)` or `max(x, other)`: one overload each of the same name."""

    def infer(call: Call) -> NodeAxes:
        if call["other"] is not None:
            return broadcast(call, call.tensors())
        return best(neutral)(call) if call["dim"] is not None else locking(_EXTREME, neutral)(call)

    return infer


def along(reason: str) -> Callable[[Call], Axes]:
    """An operator that runs along one or more dimensions and keeps them."""

    def infer(call: Call) -> Axes:
        axes = call.axes(call["self"])
        dims = [call["dim"]] if call["dims"] is None else call["dims"] or range(len(axes))
        lock_static(call, tuple(axes[d] for d in dims), reason)
        return axes

    return infer


def running(call: Call) -> NodeAxes:
    """The extreme of all entries so far along a dimension, and where it stood."""
    axes = along("accumulated in order")(call)
    return axes, axes


def normalise(call: Call) -> Axes:
    """Layer norm and RMS norm: the last dimensions are averaged over; weight and bias lie along them."""
    axes = call.axes(call["input"])
    last = axes[-len(call["normalized_shape"]) :]
    for axis in last:
        call.average(axis)
    for name in ("weight", "bias"):
        if call[name] is not None:
            call.unify_all(last, call.axes(call[name]))
    return axes


def resize_norm(call: Call, resizer: Resizer) -> Changes:
    last = call.axes(call["input"])[-len(call["normalized_shape"]) :]
    return {"normalized_shape": [resizer.size(axis) for axis in last]}


def batch_norm(call: Call) -> NodeAxes:
    """Every channel is on its own: weight, bias, mean and variance lie along the channels.

    With statistics of the batch (standardised weights), what they are taken over may not shrink.
    """
    axes = call.axes(call["input"])
    if call["training"]:
        lock_static(call, (axes[0], *axes[2:]), "its spread is measured")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call[name] is not None:
            call.unify(axes[1], call.axes(call[name])[0])
    empty = (
        [call.fresh(v.shape) for v in call.node.meta["value"][1:]] if isinstance(call.node.meta["value"], tuple) else []
    )
    return (axes, *empty) if empty else axes


def group_norm(call: Call) -> Axes:
    """Channels are groups times members; the members of a group are averaged over, at all positions."""
    axes = call.axes(call["input"])
    pair = call.algebra.factor(axes[1], call["num_groups"])
    if pair is None:
        call.lock((axes[1],), "a group norm cuts through the middle of an axis")
    else:
        for axis in (pair[1], *axes[2:]):
            call.average(axis)
        call.note(*pair)
    for name in ("weight", "bias"):
        if call[name] is not None:
            call.unify(axes[1], call.axes(call[name])[0])
    return axes


def resize_group_norm(call: Call, resizer: Resizer) -> Changes:
    return {"num_groups": resizer.size(call.noted()[0])} if call.node in call.state.notes else {}


def pool(call: Call) -> Axes:
    """Pooling works on image positions, channel by channel."""
    axes = call.axes(call["self"])
    rank = 1 if call.name.endswith("1d") else 2
    call.lock(axes[-rank:], "image positions of a pooling")
    return (*axes[:-rank], *call.locked(call.out.shape[-rank:], "image positions of a pooling"))


_INF = math.inf
_EXTREME = "the largest or smallest is taken"
_SUMMED = "summed up: the removed units' values would be missing"
_POOLS = ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d")
RULES = {
    "aten.mean": Rule(mean),
    "aten.sum": Rule(locking(_SUMMED, 0.0)),
    "aten.prod": Rule(locking("multiplied up", 1.0)),
    **{f"aten.{n}": Rule(locking(_EXTREME, v)) for n, v in (("amax", -_INF), ("amin", _INF), ("any", 0), ("all", 1))},
    **{f"aten.{n}": Rule(best(v)) for n, v in (("argmax", -_INF), ("argmin", _INF))},
    **{f"aten.{n}": Rule(extreme(v)) for n, v in (("max", -_INF), ("min", _INF))},
    **{f"aten.{n}": Rule(locking("its spread is measured")) for n in ("var", "std", "var_mean")},
    **{f"aten.{n}": Rule(locking("its norm is measured", 0.0)) for n in ("linalg_vector_norm", "norm")},
    "aten.logsumexp": Rule(locking("its norm is measured", -_INF)),
    **{f"aten.{n}": Rule(along("accumulated in order")) for n in ("cumsum", "cumprod", "flip", "roll")},
    **{f"aten.{n}": Rule(running) for n in ("cummax", "cummin")},
    "aten.layer_norm": Rule(normalise, resize_norm),
    "aten.rms_norm": Rule(normalise, resize_norm),
    "aten.group_norm": Rule(group_norm, resize_group_norm),
    "aten._native_batch_norm_legit_no_training": Rule(batch_norm),
    "aten.batch_norm": Rule(batch_norm),
    **{f"aten.{name}": Rule(pool) for name in _POOLS},
}

__all__ = ["RULES", "resize_sizes"]
