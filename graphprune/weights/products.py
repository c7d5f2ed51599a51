"""Products with stored weights, a part of the weight at a time: the wide form of a large one is never whole."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

_PART = 1 << 20  # elements of a weight that are wide at a time: few enough to stay in the cache of a core
_FAR = 1 << 26  # the same on another device, to which they have to travel
_aten = torch.ops.aten


def parts(size: int, other: int, most: int) -> Iterator[tuple[int, int]]:
    """Places and lengths of so many lines, each of `other` elements, of at most so many together where they can be."""
    step = max(1, most // max(1, other))
    for start in range(0, size, step):
        yield start, min(step, size - start)


def multiply(x: Tensor, held: Tensor, dtype: torch.dtype) -> Tensor:
    """The product of x [m, k] and a narrow [k, n], in parts along the dimension that its memory is laid out by.

    It is made where x is.
    """
    most = _PART if x.device == held.device else _FAR
    if held.numel() <= most:
        return x @ held.to(x.device).to(dtype)
    if held.stride(0) <= held.stride(1):  # columns lie together: a weight [n, k], transposed
        result = x.new_empty(len(x), held.shape[1])
        for start, wide in widened(held.t(), x, dtype, most):
            torch.mm(x, wide.t(), out=result.narrow(1, start, len(wide)))
        return result
    result = x.new_zeros(len(x), held.shape[1])
    for start, wide in widened(held, x, dtype, most):
        result.addmm_(x.narrow(1, start, len(wide)), wide)
    return result


def widened(held: Tensor, x: Tensor, dtype: torch.dtype, most: int) -> Iterator[tuple[int, Tensor]]:
    """Some rows of a narrow matrix at a time in a wide type where x is, and the first one's place.

    On the processor all are in one memory in turn: new memory for each costs far more than the widening.
    """
    rows, lines = held.shape
    memory = None
    for start, size in parts(rows, lines, most):
        part = held.narrow(0, start, size)
        if x.device != held.device:
            yield start, part.to(x.device).to(dtype)
            continue
        memory = torch.empty(size, lines, dtype=dtype, device=x.device) if memory is None else memory
        yield start, memory[:size].copy_(part)


def multiply_and_add(bias: Tensor, x: Tensor, held: Tensor, dtype: torch.dtype) -> Tensor:
    return multiply(x, held, dtype) + bias


# The second operand is the weight.
PRODUCTS: Mapping[object, Callable[..., Tensor]] = {
    _aten.mm.default: multiply,
    _aten.addmm.default: multiply_and_add,
}
