"""Element by element: operands broadcast against each other, and dimensions that meet are the same axis."""

from collections.abc import Sequence

from torch import fx

from graphprune.axes.inference import Axes, Call, Rule

# fmt: off
_NAMES = [
    "__and__", "__or__", "__xor__", "_conj", "_to_copy", "abs", "add", "alias", "bitwise_and", "bitwise_not",
    "bitwise_or", "celu", "clamp", "clamp_max", "clamp_min", "clone", "contiguous", "copy", "cos", "detach", "div",
    "dropout", "elu", "empty_like", "eq", "erf", "erfinv", "exp", "expm1", "fill", "floor", "floor_divide",
    "fmod", "full_like", "ge", "gelu", "gt", "hardsigmoid", "hardswish", "hardtanh", "isinf", "isnan", "le",
    "leaky_relu", "lift_fresh_copy", "log", "log1p", "log_sigmoid", "logical_and", "logical_not", "logical_or",
    "logical_xor", "lt", "masked_fill", "maximum", "minimum", "mish", "mul", "multiply", "nan_to_num", "ne", "neg",
    "ones_like", "pow", "reciprocal", "relu", "relu6", "remainder", "round", "rsqrt", "rsub", "sgn", "sigmoid",
    "sign", "silu", "sin", "softplus", "sqrt", "square", "sub", "tan", "tanh", "where",
    "xlogy", "zeros_like",
]
# fmt: on


def broadcast(call: Call, operands: Sequence[fx.Node]) -> Axes:
    """Relate operands aligned at their last dimension; a dimension of size one says nothing about a larger one."""
    result = []
    shape = call.out.shape
    for position, size in enumerate(shape):
        axes = [axis for node in operands for axis in aligned(call, node, position - len(shape), size)]
        for other in axes[1:]:
            call.unify(axes[0], other)
        result.append(axes[0] if axes else call.algebra.fresh(size))
    return tuple(result)


def aligned(call: Call, node: fx.Node, position: int, size: object) -> Axes:
    """The operand's axis at this place from the end, if it has one of the full size."""
    shape = call.shape(node)
    if -position > len(shape) or shape[position] != size:
        return ()
    return (call.axes(node)[position],)


def elementwise(call: Call) -> Axes:
    return broadcast(call, call.tensors())


def converted(call: Call) -> Axes:
    """Only the element type is taken of a second tensor, whose axes may be others."""
    return call.axes(call["self"])


RULES = {f"aten.{name}": Rule(elementwise) for name in _NAMES} | {
    f"aten.{name}": Rule(converted) for name in ("to", "type_as")
}
