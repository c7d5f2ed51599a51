"""Lowerings of element-wise calls that torchlib does not have, or has for another opset."""

from typing import Any

from torch import fx


def square(op: Any, node: fx.Node, value: Any) -> Any:
    return op.Mul(value, value)


def smaller(op: Any, node: fx.Node, left: Any, *right: Any) -> Any:
    """The element-wise form of `min`; the reducing forms are torchlib's."""
    return op.Min(left, right[0]) if overload(node) == "other" else NotImplemented


def larger(op: Any, node: fx.Node, left: Any, *right: Any) -> Any:
    return op.Max(left, right[0]) if overload(node) == "other" else NotImplemented


def log1p(op: Any, node: fx.Node, value: Any) -> Any:
    """log(1 + x); for |x| < 1e-7 in float32 that is 0, where torch gives x."""
    return op.Log(op.Add(value, op.CastLike(op.Constant(value_float=1.0), value)))


def overload(node: fx.Node) -> str:
    return str(getattr(node.target, "_overloadname", ""))


ELEMENTWISE = {"square": square, "min": smaller, "max": larger, "log1p": log1p}
