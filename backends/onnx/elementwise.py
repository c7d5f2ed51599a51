"""Lowerings of element-wise calls that torchlib does not have, or has for another opset."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
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


def rms_norm(op: Any, node: fx.Node, value: Any, shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """The norm over the last dimensions, in what opset 20 has; without `eps` torch takes the machine epsilon."""
    axes = op.Constant(value_ints=list(range(-len(shape), 0)))
    small = torch.finfo(node.meta["value"].dtype).eps if eps is None else eps
    square = op.ReduceMean(op.Mul(value, value), axes, keepdims=1)
    result = op.Div(value, op.Sqrt(op.Add(square, op.CastLike(op.Constant(value_float=small), value))))
    return result if weight is None else op.Mul(result, weight)


def reshape_as(op: Any, node: fx.Node, value: Any, other: Any) -> Any:
    return op.Reshape(value, op.Shape(other), allowzero=1)


def differences(
    op: Any, node: fx.Node, value: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None
) -> Any:
    """What each entry has more than the one before it."""
    if n != 1:
        return NotImplemented
    given = [x for x in (prepend, value, append) if x is not None]
    whole = op.Concat(*given, axis=dim) if len(given) > 1 else value
    place, zero, one, last = (op.Constant(value_ints=[x]) for x in (dim, 0, 1, -1))
    end = op.Constant(value_ints=[2**63 - 1])
    return op.Sub(op.Slice(whole, one, end, place), op.Slice(whole, zero, last, place))


def broadcast_all(op: Any, node: fx.Node, tensors: Any) -> Any:
    whole = tensors[0]
    for tensor in tensors[1:]:
        whole = op.Expand(whole, op.Shape(tensor))
    return [op.Expand(tensor, op.Shape(whole)) for tensor in tensors]


def eye(op: Any, node: fx.Node, rows: Any, columns: Any = None, **kwargs: Any) -> Any:
    """Ones on the diagonal; sizes are numbers or values."""
    sizes = [rows, rows if columns is None or isinstance(columns, str) else columns]
    minus = op.Constant(value_ints=[-1])
    parts = [op.Constant(value_ints=[s]) if isinstance(s, int) else op.Reshape(s, minus) for s in sizes]
    zeros = op.ConstantOfShape(op.Concat(*parts, axis=0))
    return op.EyeLike(zeros, dtype=ir.tensor_adapters.from_torch_dtype(node.meta["value"].dtype))


def one_hot(op: Any, node: fx.Node, indices: Any, classes: int = -1) -> Any:
    if classes < 0:
        return NotImplemented
    return op.OneHot(indices, op.Constant(value_ints=[classes]), op.Constant(value_ints=[0, 1]), axis=-1)


def variance(
    op: Any, node: fx.Node, value: Any, dim: Any = None, unbiased: bool = True, *rest: Any, **kwargs: Any
) -> Any:
    """The mean square around the mean, over dimensions of known size; torch divides by the size less a correction."""
    shape = node.args[0].meta["value"].shape  # type: ignore[union-attr]
    positional = overload(node) == "dim"
    correction = int(unbiased) if positional else kwargs.get("correction", 1)
    keepdim = (*rest, kwargs.get("keepdim", False))[0]
    count = math.prod(shape[d] if isinstance(shape[d], int) else math.nan for d in dim or range(len(shape)))
    if overload(node) not in ("dim", "correction") or not count > correction:
        return NotImplemented
    axes = op.Constant(value_ints=list(dim or range(len(shape))))
    centred = op.Sub(value, op.ReduceMean(value, axes, keepdims=1))
    mean = op.ReduceMean(op.Mul(centred, centred), axes, keepdims=int(keepdim))
    return op.Mul(mean, op.CastLike(op.Constant(value_float=count / (count - correction)), value))


def deviation(op: Any, node: fx.Node, value: Any, *args: Any, **kwargs: Any) -> Any:
    square = variance(op, node, value, *args, **kwargs)
    return square if square is NotImplemented else op.Sqrt(square)


def overload(node: fx.Node) -> str:
    return str(getattr(node.target, "_overloadname", ""))


ELEMENTWISE: Mapping[str, Callable[..., Any]] = {
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
