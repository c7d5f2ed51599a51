"""Lowerings of what image models call: norms over channels, pooling, padding by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import fx

from graphprune.backends.onnx.values import Lowered, Lowering, Operators
from graphprune.ir.operators import overload_name
from graphprune.ir.types import Size, TensorType

Spread = int | Sequence[int]  # one number for all dimensions, or one for each


def shape_of(node: fx.Node, index: int = 0) -> tuple[Size, ...]:
    value: TensorType = node.args[index].meta["value"]  # type: ignore[union-attr]
    return value.shape


def batch_norm(
    op: Operators,
    node: fx.Node,
    value: ir.Value,
    weight: ir.Value | None,
    bias: ir.Value | None,
    mean: ir.Value | None,
    variance: ir.Value | None,
    training: bool,
    momentum: float,
    eps: float,
    *rest: object,
) -> Lowered:
    """Frozen statistics are ai.onnx's own; without running ones, those of the batch (standardised weights)."""
    if not training and None not in (weight, bias):
        result = op.BatchNormalization(value, weight, bias, mean, variance, epsilon=eps)
        return result[0] if isinstance(result, (list, tuple)) else result
    if training and mean is not None:
        return None
    rank = len(shape_of(node))
    channels = op.Constant(value_ints=[-1, *[1] * (rank - 2)])
    if training:
        others = op.Constant(value_ints=[d for d in range(rank) if d != 1])
        mean = op.ReduceMean(value, others, keepdims=1)
        centred = op.Sub(value, mean)
        variance = op.ReduceMean(op.Mul(centred, centred), others, keepdims=1)
    else:
        centred = op.Sub(value, op.Reshape(mean, channels))
        variance = op.Reshape(variance, channels)
    result = op.Div(centred, op.Sqrt(op.Add(variance, op.CastLike(op.Constant(value_float=eps), value))))
    result = result if weight is None else op.Mul(result, op.Reshape(weight, channels))
    return result if bias is None else op.Add(result, op.Reshape(bias, channels))


def adaptive_average(op: Operators, node: fx.Node, value: ir.Value, size: Sequence[int | None]) -> Lowered:
    """Every output position averages a range of input positions: a product with a matrix for each dimension."""
    before = shape_of(node)[-len(size) :]
    if not all(isinstance(s, int) for s in before):
        return None
    if all(s == 1 for s in size):
        return op.ReduceMean(value, op.Constant(value_ints=list(range(-len(size), 0))), keepdims=1)
    element = ir.tensor_adapters.from_torch_dtype(node.meta["value"].dtype)
    for dim, (old, new) in enumerate(zip(before, size, strict=True)):
        if new in (None, old):
            continue
        matrix = op.Constant(value=ir.tensor(ranges(old, new).astype(element.numpy())))
        last = dim == len(size) - 1
        value = op.MatMul(value, matrix) if last else op.MatMul(op.Transpose(matrix, perm=[1, 0]), value)
    return value


def ranges(old: int, new: int) -> NDArray[np.float64]:
    """Shares [old, new]: output j averages the inputs from floor(j old / new) to ceil((j + 1) old / new)."""
    result = np.zeros((old, new))
    for j in range(new):
        start, end = j * old // new, -(-(j + 1) * old // new)
        result[start:end, j] = 1 / (end - start)
    return result


def convolution(
    op: Operators,
    node: fx.Node,
    value: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None = None,
    *options: Any,
    **named: Any,
) -> Lowered:
    """A convolution whose padding is a word: `valid` is none, `same` keeps the size at a stride of one."""
    names = ("stride", "padding", "dilation", "groups")
    given = {**dict(zip(names, options, strict=False)), **named}
    if overload_name(node) != "padding":
        return None
    padding, rank = given.get("padding", "valid"), len(shape_of(node)) - 2
    kernel = shape_of(node, 1)[2:]
    stride, dilation = (spread(given.get(name, 1), rank) for name in ("stride", "dilation"))
    whole = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
    pads = [w // 2 for w in whole] + [w - w // 2 for w in whole]
    operands = (value, weight) if bias is None else (value, weight, bias)
    return op.Conv(*operands, strides=stride, dilations=dilation, pads=pads, group=given.get("groups", 1))


def transposed(
    op: Operators,
    node: fx.Node,
    value: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None = None,
    stride: Spread = 1,
    padding: Spread = 0,
    output_padding: Spread = 0,
    groups: int = 1,
    dilation: Spread = 1,
) -> Lowered:
    """A transposed convolution."""
    rank = len(shape_of(node)) - 2
    strides, pads, dilations = (spread(x, rank) for x in (stride, padding, dilation))
    given = {"strides": strides, "pads": pads * 2, "dilations": dilations, "group": groups}
    operands = (value, weight) if bias is None else (value, weight, bias)
    return op.ConvTranspose(*operands, output_padding=spread(output_padding, rank), **given)


def spread(value: Spread, rank: int) -> list[int]:
    return [value] * rank if isinstance(value, int) else list(value) if len(value) == rank else [value[0]] * rank


IMAGES: Mapping[str, Lowering] = {
    "batch_norm": batch_norm,
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d"), adaptive_average),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed),
}
