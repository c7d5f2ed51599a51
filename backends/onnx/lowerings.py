"""Our own lowerings of ATen calls, used before torchlib's: exact where it is not, with constant shapes where it can.

A lowering takes the opset, the fx node and the call's converted arguments; it returns a value, a list of values, or
None to leave the call to torchlib. The types come from the graph, so sizes are compared as expressions.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
import sympy
import torch
from numpy.typing import ArrayLike
from torch import fx

from graphprune.backends.onnx.elementwise import ELEMENTWISE
from graphprune.backends.onnx.images import IMAGES
from graphprune.backends.onnx.recurrence import scan_maximum, scan_recurrence
from graphprune.backends.onnx.values import Lowered, Lowering, Operators
from graphprune.ir.operators import opname
from graphprune.ir.types import Size, TensorType

Named = dict[str, object]

# Element-wise and reducing calls whose operands torch converts to the result's type before it computes.
_CONVERTING = frozenset(
    {"add", "sub", "rsub", "mul", "div", "pow", "where", "minimum", "maximum", "remainder", "fmod", "clamp", "cat"}
    | {"sum", "mean", "cumsum", "prod", "sqrt", "rsqrt", "exp", "log", "sin", "cos", "tanh", "sigmoid", "erf"}
    | {"reciprocal", "atan2", "expm1", "log1p", "softplus"}
)
# Of these, calls that take plain numbers, which torch converts too.
_ARITHMETIC = frozenset({"add", "sub", "rsub", "mul", "div", "remainder", "fmod"})
_COMPARING = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})


def promoted_arguments(op: Operators, node: fx.Node, args: list[object], kwargs: Named) -> tuple[list[object], Named]:
    """Cast tensor operands as torch's type promotion does; ONNX has none. Returns the arguments for the lowering."""
    name = opname(node)
    wanted = promoted_type(name, node)
    if wanted is None:
        return args, kwargs
    element = ir.tensor_adapters.from_torch_dtype(wanted)

    def convert(original: object, value: Any) -> object:
        if isinstance(original, (tuple, list)):
            return [convert(o, v) for o, v in zip(original, value, strict=True)]
        known = original.meta.get("value") if isinstance(original, fx.Node) else None
        if isinstance(known, TensorType) and known.dtype != wanted:
            cast = op.Cast(value, to=element)
            cast.shape = value.shape  # torchlib asks for the rank
            return cast
        number = isinstance(original, int) and not isinstance(original, bool)
        return float(value) if number and name in _ARITHMETIC and wanted.is_floating_point else value

    skip = 1 if name == "where" else 0
    return [*args[:skip], *map(convert, node.args[skip:], args[skip:])], kwargs


def promoted_type(name: str, node: fx.Node) -> torch.dtype | None:
    """The element type that torch computes this call in, or None where operands stay as they are."""
    value = node.meta.get("value")
    if name in _CONVERTING and isinstance(value, TensorType):
        return value.dtype
    if name in _COMPARING:
        examples = [example(a) for a in node.args]
        return torch.result_type(*examples)
    return None


def example(argument: object) -> Any:
    """A tensor or number that promotes as the argument does."""
    value = argument.meta["value"] if isinstance(argument, fx.Node) else argument
    if isinstance(value, TensorType):
        return torch.empty([1] * len(value.shape), dtype=value.dtype, device="meta")
    return 1 if isinstance(value, sympy.Expr) else value


def constant(op: Operators, value: ArrayLike, dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
    return op.Constant(value=ir.tensor(np.asarray(value, dtype=dtype.numpy()), dtype=dtype))


def input_shape(node: fx.Node, index: int = 0) -> tuple[Size, ...]:
    return node.args[index].meta["value"].shape  # type: ignore[union-attr,no-any-return]


def can_be_zero(size: Size) -> bool:
    """Say whether the size is 0 for an empty past."""
    return isinstance(size, sympy.Expr) and size.subs({s: 0 for s in size.free_symbols if s.name == "past"}) == 0


def identity(op: Operators, node: fx.Node, value: ir.Value, *args: object, **kwargs: object) -> Lowered:
    return value


def to_copy(op: Operators, node: fx.Node, value: ir.Value, **kwargs: object) -> Lowered:
    before, after = node.args[0].meta["value"].dtype, node.meta["value"].dtype  # type: ignore[union-attr]
    return value if before == after else op.Cast(value, to=ir.tensor_adapters.from_torch_dtype(after))


def view(op: Operators, node: fx.Node, value: ir.Value, size: object) -> Lowered:
    """Reshape to constants: 0 copies a size, one -1 is inferred. An inferred size needs a tensor with elements."""
    before, after = input_shape(node), node.meta["value"].shape
    target = [0 if not isinstance(s, int) and before[i : i + 1] == (s,) else s for i, s in enumerate(after)]
    unknown = [i for i, size in enumerate(target) if not isinstance(size, int)]
    if len(unknown) > 1 or 0 in after or (unknown and any(map(can_be_zero, before))):
        return None
    return op.Reshape(value, constant(op, [-1 if i in unknown else s for i, s in enumerate(target)]))


def expand(op: Operators, node: fx.Node, value: ir.Value, size: object, **kwargs: object) -> Lowered:
    """Expand by constants: a size that stays is a 1, since ONNX broadcasts both ways."""
    before, after = input_shape(node), node.meta["value"].shape
    padded = (1,) * (len(after) - len(before)) + tuple(before)
    if padded == after and len(before) == len(after):
        return value
    target = [1 if old == new else new for old, new in zip(padded, after, strict=True)]
    if not all(isinstance(size, int) for size in target):
        return None
    return op.Expand(value, constant(op, target))


def linear(op: Operators, node: fx.Node, value: ir.Value, weight: ir.Value, bias: ir.Value | None = None) -> Lowered:
    """MatMul with a weight that is written transposed, or with the transpose of one that others read too."""
    if len(input_shape(node, 1)) != 2:
        return None
    matrix = weight if weight.meta.get("transposed") else op.Transpose(weight, perm=[1, 0])
    product = op.MatMul(value, matrix)
    return product if bias is None else op.Add(product, bias)


def split(op: Operators, node: fx.Node, value: ir.Value, *args: Any, **kwargs: Any) -> Lowered:
    """One slice for each part: torchlib's sequences are slow and not portable."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    sizes = [part.shape[dim] for part in node.meta["value"]]
    if not all(isinstance(size, int) for size in sizes):
        return None
    ends = np.cumsum(sizes).tolist()
    axes = constant(op, [dim])
    return [op.Slice(value, constant(op, [e - s]), constant(op, [e]), axes) for e, s in zip(ends, sizes, strict=True)]


def unbind(op: Operators, node: fx.Node, value: ir.Value, dim: int = 0) -> Lowered:
    return [op.Gather(value, constant(op, index), axis=dim) for index in range(len(node.meta["value"]))]


def both(op: Operators, node: fx.Node, left: object, right: object) -> Lowered:
    return op.And(left, right) if node.meta["value"].dtype == torch.bool else op.BitwiseAnd(left, right)


def either(op: Operators, node: fx.Node, left: object, right: object) -> Lowered:
    return op.Or(left, right) if node.meta["value"].dtype == torch.bool else op.BitwiseOr(left, right)


def multiply(op: Operators, node: fx.Node, left: object, right: object) -> Lowered:
    """Write `x * rsqrt(v)` as `x / sqrt(v)`, the form that onnxruntime fuses to one RMS normalisation."""
    for value, other in ((right, left), (left, right)):
        producer = value.producer() if isinstance(value, ir.Value) else None
        if isinstance(other, ir.Value) and producer is not None and producer.op_type == "Reciprocal":
            return op.Div(other, producer.inputs[0])
    return None


def rsub(op: Operators, node: fx.Node, value: ir.Value, other: object, alpha: float = 1) -> Lowered:
    return None if alpha != 1 else op.Sub(other, value)


def attention(
    op: Operators,
    node: fx.Node,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    attn_mask: ir.Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Lowered:
    """Attention with torch's convention for boolean masks: a query that may see nothing (left padding) gives zeros."""
    if len(input_shape(node)) < 3 or dropout_p:
        return None
    dtype = query.dtype
    assert dtype is not None
    factor = constant(op, 1 / math.sqrt(int(input_shape(node)[-1])) if scale is None else scale, dtype)
    if enable_gqa:
        key, value = (repeat_heads(op, node, x, index) for x, index in ((key, 1), (value, 2)))
    order = list(range(len(input_shape(node))))
    scores = op.MatMul(op.Mul(query, factor), op.Transpose(key, perm=[*order[:-2], order[-1], order[-2]]))
    mask = causal_mask(op, query, key) if is_causal else attn_mask
    if mask is None:
        return op.MatMul(op.Softmax(scores, axis=-1), value)
    if mask.dtype != ir.DataType.BOOL:
        return op.MatMul(op.Softmax(op.Add(scores, mask), axis=-1), value)
    # Equal masks give equal nodes, which the final pass merges: bias and visibility are computed once a model.
    lowest = torch.finfo(node.meta["value"].dtype).min / 2  # half, so that adding a score cannot overflow
    bias = op.Where(mask, constant(op, 0.0, dtype), constant(op, lowest, dtype))
    result = op.MatMul(op.Softmax(op.Add(scores, bias), axis=-1), value)
    if is_causal:
        return result
    return op.Mul(result, op.ReduceMax(op.Cast(mask, to=dtype), constant(op, [-1]), keepdims=1))


def repeat_heads(op: Operators, node: fx.Node, value: ir.Value, index: int) -> ir.Value:
    """Repeat each key-value head for the query heads of its group."""
    heads, own = input_shape(node)[1], input_shape(node, index)[1]
    if heads == own:
        return value
    size = input_shape(node, index)[3]
    repeated = op.Expand(op.Unsqueeze(value, constant(op, [2])), constant(op, [1, 1, int(heads) // int(own), 1, 1]))
    return op.Reshape(repeated, constant(op, [0, heads, -1, size]))


def causal_mask(op: Operators, query: ir.Value, key: ir.Value) -> ir.Value:
    """The lower triangle that torch means by `is_causal`, aligned at the first position."""
    zero, one = constant(op, 0), constant(op, 1)
    rows, columns = (op.Range(zero, op.Squeeze(op.Shape(x, start=-2, end=-1)), one) for x in (query, key))
    mask = op.LessOrEqual(op.Unsqueeze(columns, constant(op, [0])), op.Unsqueeze(rows, constant(op, [1])))
    mask.dtype = ir.DataType.BOOL
    return mask


def index_add(
    op: Operators, node: fx.Node, value: ir.Value, dim: int, index: ir.Value, source: ir.Value, **kwargs: object
) -> Lowered:
    """Rows are added one by one, also where several go to the same place."""
    if dim != 0 or kwargs:
        return None
    return op.ScatterND(value, op.Unsqueeze(index, constant(op, [1])), source, reduction="add")


def index(op: Operators, node: fx.Node, value: ir.Value, indices: list[ir.Value]) -> Lowered:
    """Rows by a tensor of numbers, such as experts: of a file that is mapped into memory, others are not read."""
    picks = node.args[1]
    assert isinstance(picks, (list, tuple))
    kind = picks[0].meta["value"].dtype if len(picks) == 1 and isinstance(picks[0], fx.Node) else None
    return op.Gather(value, indices[0], axis=0) if kind in (torch.int32, torch.int64) else None


LOWERINGS: Mapping[str, Lowering] = MappingProxyType(
    {
        **dict.fromkeys(("clone", "contiguous", "alias", "detach", "detach_", "lift_fresh_copy", "dropout"), identity),
        **dict.fromkeys(("view", "reshape", "_unsafe_view"), view),
        **dict.fromkeys(("split", "split_with_sizes", "chunk"), split),
        "_to_copy": to_copy,
        "expand": expand,
        "linear": linear,
        "unbind": unbind,
        "mul": multiply,
        "__and__": both,
        "__or__": either,
        "rsub": rsub,
        "index": index,
        "index_add": index_add,
        "scaled_dot_product_attention": attention,
        "linear_recurrence": scan_recurrence,
        "cummax": scan_maximum,
        **ELEMENTWISE,
        **IMAGES,
    }
)
