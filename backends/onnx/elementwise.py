"""Lowerings of element-wise calls that torchlib does not have, or has for another opset."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from graphprune.backends.onnx.values import Lowered, Lowering, Operators
from graphprune.ir.operators import overload_name


def square(op: Operators, node: fx.Node, value: ir.Value) -> Lowered:
    return op.Mul(value, value)


def smaller(op: Operators, node: fx.Node, left: object, *right: object) -> Lowered:
    """The element-wise form of `min`; the reducing forms are torchlib's."""
    return op.Min(left, right[0]) if overload_name(node) == "other" else None


def larger(op: Operators, node: fx.Node, left: object, *right: object) -> Lowered:
    return op.Max(left, right[0]) if overload_name(node) == "other" else None


def log1p(op: Operators, node: fx.Node, value: ir.Value) -> Lowered:
    """log(1 + x); for |x| < 1e-7 in float32 that is 0, where torch gives x."""
    return op.Log(op.Add(value, op.CastLike(op.Constant(value_float=1.0), value)))


def rms_norm(
    op: Operators,
    node: fx.Node,
    value: ir.Value,
    shape: Sequence[object],
    weight: ir.Value | None = None,
    eps: float | None = None,
) -> Lowered:
    """The norm over the last dimensions, in what opset 20 has; without `eps` torch takes the machine epsilon."""
    axes = op.Constant(value_ints=list(range(-len(shape), 0)))
    small = torch.finfo(node.meta["value"].dtype).eps if eps is None else eps
    square = op.ReduceMean(op.Mul(value, value), axes, keepdims=1)
    result = op.Div(value, op.Sqrt(op.Add(square, op.CastLike(op.Constant(value_float=small), value))))
    return result if weight is None else op.Mul(result, weight)


def reshape_as(op: Operators, node: fx.Node, value: ir.Value, other: ir.Value) -> Lowered:
    return op.Reshape(value, op.Shape(other), allowzero=1)


def differences(
    op: Operators,
    node: fx.Node,
    value: ir.Value,
    n: int = 1,
    dim: int = -1,
    prepend: ir.Value | None = None,
    append: ir.Value | None = None,
) -> Lowered:
    """What each entry has more than the one before it."""
    if n != 1:
        return None
    given = [x for x in (prepend, value, append) if x is not None]
    whole = op.Concat(*given, axis=dim) if len(given) > 1 else value
    place, zero, one, last = (op.Constant(value_ints=[x]) for x in (dim, 0, 1, -1))
    end = op.Constant(value_ints=[2**63 - 1])
    return op.Sub(op.Slice(whole, one, end, place), op.Slice(whole, zero, last, place))


def broadcast_all(op: Operators, node: fx.Node, tensors: Sequence[ir.Value]) -> Lowered:
    whole = tensors[0]
    for tensor in tensors[1:]:
        whole = op.Expand(whole, op.Shape(tensor))
    return [op.Expand(tensor, op.Shape(whole)) for tensor in tensors]


def eye(op: Operators, node: fx.Node, rows: object, columns: object = None, **kwargs: object) -> Lowered:
    """Ones on the diagonal; sizes are numbers or values."""
    sizes = [rows, rows if columns is None or isinstance(columns, str) else columns]
    minus = op.Constant(value_ints=[-1])
    parts = [op.Constant(value_ints=[s]) if isinstance(s, int) else op.Reshape(s, minus) for s in sizes]
    zeros = op.ConstantOfShape(op.Concat(*parts, axis=0))
    return op.EyeLike(zeros, dtype=ir.tensor_adapters.from_torch_dtype(node.meta["value"].dtype))


def one_hot(op: Operators, node: fx.Node, indices: ir.Value, classes: int = -1) -> Lowered:
    if classes < 0:
        return None
    return op.OneHot(indices, op.Constant(value_ints=[classes]), op.Constant(value_ints=[0, 1]), axis=-1)


def variance(
    op: Operators,
    node: fx.Node,
    value: ir.Value,
    dim: Sequence[int] | None = None,
    unbiased: bool = True,
    *rest: bool,
    **kwargs: Any,
) -> Lowered:
    """The mean square around the mean, over dimensions of known size; torch divides by the size less a correction."""
    shape = node.args[0].meta["value"].shape  # type: ignore[union-attr]
    positional = overload_name(node) == "dim"
    correction = int(unbiased) if positional else kwargs.get("correction", 1)
    keepdim = (*rest, kwargs.get("keepdim", False))[0]
    count = math.prod(shape[d] if isinstance(shape[d], int) else math.nan for d in dim or range(len(shape)))
    if overload_name(node) not in ("dim", "correction") or not count > correction:
        return None
    axes = op.Constant(value_ints=list(dim or range(len(shape))))
    centred = op.Sub(value, op.ReduceMean(value, axes, keepdims=1))
    mean = op.ReduceMean(op.Mul(centred, centred), axes, keepdims=int(keepdim))
    return op.Mul(mean, op.CastLike(op.Constant(value_float=count / (count - correction)), value))


def deviation(op: Operators, node: fx.Node, value: ir.Value, *args: Any, **kwargs: Any) -> Lowered:
    square = variance(op, node, value, *args, **kwargs)
    return None if square is None else op.Sqrt(square)


ELEMENTWISE: Mapping[str, Lowering] = {
    "square": square,
    "min": smaller,
    "max": larger,
    "log1p": log1p,
    "var": variance,
    "std": deviation,
    "rms_norm": rms_norm,
    "reshape_as": reshape_as,
    "broadcast_tensors": broadcast_all,
    "diff": differences,
    "eye": eye,
    "one_hot": one_hot,
}
