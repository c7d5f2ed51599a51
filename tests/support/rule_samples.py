"""A small call of every operator that has an axis rule; some of several forms of one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


@dataclass(frozen=True)
class Sample:
    """One call; tensors stand anywhere among its arguments."""

    name: str
    overload: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    space: str = "aten"

    @property
    def target(self) -> Any:
        return getattr(getattr(getattr(torch.ops, self.space), self.name), self.overload)

    def __str__(self) -> str:
        return f"{self.name}-{self.overload}"


def f(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64) + 0.25


def i(*values: Any) -> Tensor:
    return torch.tensor(values)


def b(*shape: int) -> Tensor:
    return torch.rand(shape) > 0.5


def s(call: str, *args: Any, **kwargs: Any) -> Sample:
    name, _, overload = call.partition(".")
    return Sample(name, overload or "default", args, kwargs)


_FULL = 2**63 - 1
_UNARY = """
abs alias celu clone contiguous cos detach elu erf erfinv exp expm1 floor gelu hardsigmoid hardswish hardtanh isinf
isnan leaky_relu lift_fresh_copy log log1p log_sigmoid mish nan_to_num neg reciprocal relu relu6 round rsqrt sgn
sigmoid sign silu sin softplus sqrt square tan tanh zeros_like ones_like
"""
_BINARY = """
add.Tensor div.Tensor eq.Tensor floor_divide fmod.Tensor ge.Tensor gt.Tensor le.Tensor lt.Tensor maximum minimum
mul.Tensor multiply.Tensor ne.Tensor pow.Tensor_Tensor remainder.Tensor rsub.Tensor sub.Tensor xlogy.Tensor
"""
_LOGICAL = """
bitwise_and.Tensor bitwise_or.Tensor logical_and logical_or logical_xor __and__.Tensor __or__.Tensor __xor__.Tensor
"""
_REDUCED = """
sum.dim_IntList amax amin logsumexp linalg_vector_norm norm.ScalarOpt_dim var.dim std.dim var_mean.dim mean.dim
"""


def elementwise() -> Iterator[Sample]:
    for name in _UNARY.split():
        yield s(name, f(2, 3) * 0.7)
    for name in _BINARY.split():
        yield s(name, f(2, 3, 4), f(3, 1))
        yield s(name, f(4), f(2, 3, 4))
    for name in _LOGICAL.split():
        yield s(name, b(2, 3), b(2, 1))
    yield s("bitwise_not", b(2, 3))
    yield s("logical_not", b(2, 3))
    yield s("clamp", f(2, 3), 0.3, 0.9)
    yield s("clamp_max", f(2, 3), 0.6)
    yield s("clamp_min", f(2, 3), 0.6)
    yield s("clamp.Tensor", f(2, 3), f(3), f(2, 1))
    yield s("add.Scalar", f(2, 3), 2)
    yield s("pow.Tensor_Scalar", f(2), 3)
    yield s("masked_fill.Scalar", f(2, 3), b(3), 0.5)
    yield s("where.self", b(2, 1), f(2, 3), f(3))
    yield s("where.ScalarOther", b(2, 3), f(3), 0.0)
    yield s("fill.Scalar", f(2, 3), 1.0)
    yield s("full_like", f(2, 3), 4.0)
    yield s("empty_like", i(1, 2))
    yield s("dropout", f(2, 3), 0.3, False)
    yield s("to.dtype", f(2, 3), torch.float32)
    yield s("_to_copy", f(2, 3), dtype=torch.float32)
    yield s("copy", f(2, 3), f(3))
    yield s("type_as", f(2, 3), f(2, 3))
    yield s("_conj", torch.complex(f(2, 3), f(2, 3)))


def shapes() -> Iterator[Sample]:
    for name in ("view", "_unsafe_view", "reshape"):
        yield s(name, f(6, 4), [2, 3, 4])
        yield s(name, f(2, 3, 4), [6, 4])
        yield s(name, f(2, 3, 4), [2, 12])
        yield s(name, f(2, 3), [3, 2])
        yield s(name, f(6, 2), [4, 3])
        yield s(name, f(2, 6), [2, 1, 2, 3])
    yield s("flatten.using_ints", f(2, 3, 4), 1)
    yield s("expand", f(3, 1), [2, 3, 4])
    yield s("expand_as", f(3, 1), f(2, 3, 4))
    yield s("reshape_as", f(6, 4), f(2, 3, 4))
    yield s("view_as", f(2, 3, 4), f(6, 4))
    yield s("unsqueeze", f(2, 3), -1)
    yield s("unsqueeze", f(2, 3), 0)
    yield s("squeeze", f(2, 1, 3, 1))
    yield s("squeeze.dim", f(2, 1, 3), 1)
    yield s("squeeze.dims", f(2, 1, 1), [1, -1])
    yield s("squeeze.dim", f(2, 3), 0)
    yield s("transpose.int", f(2, 3, 4), 0, -1)
    yield s("permute", f(2, 3, 4), [2, 0, 1])
    yield s("permute", f(2, 3, 4), [-1, 0, -2])
    yield s("t", f(2, 3))
    yield s("t", f(3))
    yield s("cat", [f(2, 3), f(2, 4)], 1)
    yield s("cat", [f(2, 3), f(5, 3), f(2, 3)])
    yield s("cat", [f(0), f(2, 3), f(2, 2)], -1)
    yield s("concat", [f(2, 3), f(2, 4)], 1)
    yield s("stack", [f(2, 3), f(2, 3)], 1)
    yield s("stack", [f(2, 3), f(2, 3)], -1)


def slices() -> Iterator[Sample]:
    yield s("unfold", f(3, 6, 2), 1, 4, 1)
    yield s("pad", f(6, 3), [0, 0, 1, 0])
    yield s("pad", f(2, 6, 3), [1, 2], "replicate")
    yield s("constant_pad_nd", f(6, 3), [1, 0], 2.0)
    yield s("slice.Tensor", f(6, 3), 0, 2)
    yield s("slice.Tensor", f(6, 3), 0, 1, 4)
    yield s("slice.Tensor", f(6, 3), 0, 0, -2)
    yield s("slice.Tensor", f(3, 6), -1, -2)
    yield s("slice.Tensor", f(6), 0, 0, 6, 2)
    yield s("slice.Tensor", f(6, 2), 0, 1, 6, 3)
    yield s("slice.Tensor", f(2, 6), 1, 1, _FULL, 2)
    yield s("slice.Tensor", f(7), 0, 0, 7, 2)
    yield s("slice.Tensor", f(6), 0, 3, 6, 2)
    yield s("slice_scatter", f(6, 3), f(2, 3), 0, 1, 3)
    yield s("slice_scatter", f(6, 3), f(4, 3), 0, 2, _FULL)
    yield s("slice_scatter", f(6, 3), f(6, 3), 0)
    yield s("slice_scatter", f(3, 6), f(3, 3), 1, 0, 6, 2)
    yield s("select_scatter", f(3, 4), f(4), 0, 1)
    yield s("select_scatter", f(3, 4), f(3), -1, -2)
    yield s("slice.Tensor", f(6), 0, 0, 99)
    yield s("slice.Tensor", f(6), 0, 3, 3)
    yield s("slice.Tensor", f(6), 0, -99, 2)
    yield s("slice.Tensor", f(6), 0, None, -1)
    yield s("split_with_sizes", f(2, 7), [2, 4, 1], 1)
    yield s("split_with_sizes", f(6), [3, 3])
    yield s("split_with_sizes", f(2, 6), [6, 0], 1)
    yield s("split_with_sizes", f(6), [0, 2, 4])
    yield s("select.int", f(3, 4), 0, 1)
    yield s("select.int", f(3, 4), -1, -1)
    yield s("unbind.int", f(2, 3), 1)
    yield s("repeat", f(1, 3), [2, 4, 1])
    yield s("repeat", f(3), [2])
    yield s("repeat", f(2, 3), [1, 3])
    yield s("repeat_interleave.self_int", f(2, 3), 2, 1)
    yield s("repeat_interleave.self_int", f(2, 3), 3, -2)
    yield s("repeat_interleave.self_int", f(2, 3), 2)
    yield s("repeat_interleave.self_Tensor", f(3), i(1, 2, 1))


def contractions() -> Iterator[Sample]:
    yield s("linear", f(2, 3, 4), f(5, 4), f(5))
    yield s("linear", f(4), f(5, 4))
    yield s("matmul", f(2, 3, 4), f(4, 5))
    yield s("matmul", f(2, 3, 4), f(2, 4, 5))
    yield s("matmul", f(2, 1, 3, 4), f(5, 4, 3))
    yield s("matmul", f(4), f(4))
    yield s("matmul", f(3, 4), f(4))
    yield s("matmul", f(4), f(4, 3))
    yield s("matmul", f(4), f(2, 4, 3))
    yield s("matmul", f(2, 3, 4), f(4))
    yield s("mm", f(3, 4), f(4, 5))
    yield s("einsum", "ibh,hnd->ibnd", [f(2, 3, 4), f(4, 2, 5)])
    yield s("einsum", "ibnd,jbnd->bnij", [f(2, 3, 4, 2), f(3, 3, 4, 2)])
    yield s("einsum", "ijb->bij", [f(2, 3, 4)])
    yield s("einsum", "ij,kj->i", [f(2, 3), f(4, 3)])
    yield s("einsum", "ii,ij->j", [f(3, 3), f(3, 4)])
    yield s("einsum", "...i,ij->...j", [f(2, 1, 4), f(4, 3)])
    yield s("einsum", "...i,...i->...", [f(3, 2, 4), f(2, 4)])
    yield s("einsum", "ba, ac", [f(2, 3), f(3, 4)])
    yield s("einsum", "ab,ab->ab", [f(1, 3), f(2, 3)])
    yield s("bmm", f(2, 3, 4), f(2, 4, 5))
    yield s("mv", f(3, 4), f(4))
    yield s("addmm", f(5), f(3, 4), f(4, 5))
    yield s("addmm", f(3, 1), f(3, 4), f(4, 5))
    yield s("baddbmm", f(2, 3, 5), f(2, 3, 4), f(2, 4, 5))
    yield s("baddbmm", f(1, 5), f(2, 3, 4), f(2, 4, 5))
    yield s("conv1d", f(2, 4, 7), f(6, 4, 3), f(6))
    yield s("conv1d", f(2, 4, 7), f(6, 2, 3), f(6), [1], [1], [1], 2)
    yield s("conv2d", f(2, 4, 5, 5), f(6, 4, 3, 3))
    yield s("conv2d", f(1, 4, 5, 5), f(8, 1, 3, 3), f(8), [1, 1], [1, 1], [1, 1], 4)
    yield s("conv_transpose2d.input", f(2, 4, 5, 5), f(4, 6, 3, 3), f(6), [2, 2], [1, 1], [1, 1])
    yield s("conv_transpose2d.input", f(1, 4, 5, 5), f(4, 1, 3, 3), None, [2, 2], [0, 0], [0, 0], 4)
    yield s("conv_transpose3d.input", f(1, 2, 3, 3, 3), f(2, 3, 2, 2, 2), f(3))
    yield s("conv_transpose1d", f(1, 4, 5), f(4, 3, 3), f(6), [1], [0], [0], 2)
    yield s("conv3d", f(1, 2, 3, 3, 3), f(3, 2, 2, 2, 2))
    yield s("convolution", f(1, 4, 5), f(6, 4, 3), f(6), [1], [0], [1], False, [0], 1)
    yield s("convolution", f(1, 4, 5), f(4, 3, 3), None, [1], [0], [1], True, [0], 1)


def attentions() -> Iterator[Sample]:
    call = "scaled_dot_product_attention"
    yield s(call, f(2, 4, 3, 6), f(2, 4, 5, 6), f(2, 4, 5, 7), scale=0.4)
    yield s(call, f(1, 6, 3, 4), f(1, 2, 5, 4), f(1, 2, 5, 4), f(1, 1, 3, 5), scale=0.4, enable_gqa=True)
    yield s(call, f(2, 3, 4), f(2, 5, 4), f(2, 5, 4), f(2, 3, 5), scale=0.4)
    yield s(call, f(2, 4, 3, 6), f(2, 4, 5, 6), f(2, 4, 5, 6), f(2, 4, 3, 5), scale=0.4)
    for name in ("softmax.int", "log_softmax.int", "_safe_softmax"):
        yield s(name, f(2, 3), -1)
    yield s("_softmax", f(2, 3), 0, False)
    yield s("_log_softmax", f(2, 3), 1, False)


def reductions() -> Iterator[Sample]:
    for name in _REDUCED.split():
        order = (2,) if name.startswith("norm") or name == "linalg_vector_norm" else ()
        yield s(name, f(2, 3, 4), *order, [1])
        yield s(name, f(2, 3, 4), *order, [0, -1], keepdim=True) if not order else s(name, f(2, 3, 4), 2, [0, -1], True)
    yield s("sum", f(2, 3))
    yield s("mean", f(2, 3))
    for name in ("min", "max"):
        yield s(f"{name}.other", f(2, 3), f(3))
        yield s(f"{name}.dim", f(2, 3), 1)
        yield s(name, f(2, 3))
    yield s("prod", f(2, 3))
    yield s("prod.dim_int", f(2, 3), 1)
    yield s("argmax", f(2, 3), 1)
    yield s("argmin", f(2, 3), 0, True)
    yield s("argmax", f(2, 3))
    for name in ("max", "min"):
        yield s(name, f(2, 3))
        yield s(f"{name}.dim", f(2, 3), 1)
        yield s(f"{name}.dim", f(2, 3), 0, True)
        yield s(f"{name}.other", f(2, 3), f(3))
    yield s("any.dim", b(2, 3), 1)
    yield s("all.dim", b(2, 3), 0)
    yield s("any", b(2, 3))
    yield s("all", b(2, 3))
    yield s("cumsum", f(2, 3), 1)
    yield s("roll", f(2, 3, 4), [1, -1], [0, 1])
    yield s("roll", f(2, 3), [1])
    yield s("cummax", f(2, 3), 1)
    yield s("cummin", f(2, 3), -1)
    yield s("cumprod", f(2, 3), 0)
    yield s("flip", f(2, 3), [1])
    yield s("flip", f(2, 3), [0, 1])
    yield s("layer_norm", f(2, 3, 4), [4], f(4), f(4))
    yield s("layer_norm", f(2, 3, 4), [4])
    yield s("layer_norm", f(2, 3, 4), [3, 4])
    yield s("rms_norm", f(2, 3, 4), [4], f(4), 1e-3)
    yield s("rms_norm", f(2, 4), [4])
    yield s("group_norm", f(2, 6, 3), 3, f(6), f(6))
    yield s("group_norm", f(2, 6, 3), 2)
    yield s("group_norm", f(2, 6, 3, 2), 1, f(6), f(6))
    yield s("group_norm", f(2, 6, 3), 1)
    yield s("_native_batch_norm_legit_no_training", f(2, 3, 4), f(3), f(3), f(3), f(3), 0.1, 1e-5)
    yield s("batch_norm", f(2, 3, 4), f(3), f(3), f(3), f(3), False, 0.1, 1e-5, False)
    yield s("adaptive_avg_pool1d", f(2, 3, 6), [2])
    yield s("adaptive_avg_pool2d", f(2, 3, 4, 4), [2, 2])
    yield s("avg_pool1d", f(2, 3, 6), [2])
    yield s("avg_pool2d", f(2, 3, 4, 4), [2, 2])
    yield s("max_pool1d", f(2, 3, 6), [2])
    yield s("max_pool2d", f(3, 4, 4), [2, 2])


def indexing() -> Iterator[Sample]:
    yield s("embedding", f(5, 3), i([0, 4], [2, 2]))
    yield s("index.Tensor", f(4, 3), [i(0, 2)])
    yield s("index.Tensor", f(4, 3, 2), [None, i(0, 2)])
    yield s("index.Tensor", f(4, 3, 2), [i(0, 2), i(1, 1)])
    yield s("index.Tensor", f(4, 3, 2), [i(0, 2), None, i(1, 1)])
    yield s("index.Tensor", f(4, 3), [i([0], [3]), i(1, 2)])
    yield s("index.Tensor", f(5, 4, 3, 2), [None, i(0, 2), None, i(1, 1)])
    yield s("index.Tensor", f(3, 3), [b(3)])
    yield s("gather", f(3, 4), 1, i([0, 1], [3, 3], [1, 2]))
    yield s("gather", f(3, 4), 0, i([0, 1], [2, 2]))
    yield s("index_select", f(4, 3), 0, i(3, 1))
    yield s("index_select", f(4, 3), -1, i(2, 1))
    yield s("topk", f(3, 5), 2)
    yield s("topk", f(3, 5), 2, 0)
    yield s("scatter.src", f(3, 5), 1, i([0, 4], [1, 2], [3, 3]), f(3, 2))
    yield s("scatter.value", f(3, 5), 1, i([0, 4], [1, 2], [3, 3]), 2.0)
    yield s("scatter.value", f(3, 5), 1, i([0, 4], [1, 2]), 2.0)
    yield s("index_add", f(4, 3), 0, i(3, 1), f(2, 3))
    yield s("index_add", f(4, 3), 1, i(2, 0), f(4, 2))
    yield s("one_hot", i([0, 2], [1, 1]), 3)
    yield s("arange", 5)
    yield s("arange.start", 1, 4)
    yield s("arange.start_step", 1, 9, 2)
    yield s("full", [2, 3], 1.0)
    yield s("zeros", [2, 3])
    yield s("ones", [2, 3])
    yield s("scalar_tensor", 2.0)
    yield s("new_ones", f(2), [2, 3])
    yield s("new_zeros", f(2), [2, 3])
    yield s("new_full", f(2), [2, 3], 1.0)


def recurrences() -> Iterator[Sample]:
    plain = (f(2, 3, 4, 5), f(2, 3, 4, 5), f(2, 3, 4, 6), f(2, 3, 4, 1, 1), f(2, 3, 5, 6))
    delta = (*plain[:3], f(2, 3, 4, 5, 1), plain[4], f(2, 3, 4))
    for operands in (plain, delta):
        yield Sample("linear_recurrence", "default", operands, {}, "graphprune")


def samples() -> list[Sample]:
    torch.manual_seed(0)
    families = (elementwise, shapes, slices, contractions, attentions, reductions, indexing, recurrences)
    return [sample for family in families for sample in family()]
