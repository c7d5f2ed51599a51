"""Matrix products whose terms are added up in another order: what the kernels of another processor do to last bits."""

import warnings
from typing import Any

import torch
from torch import Tensor


def other_sums() -> torch.library.Library:
    """Replace the matrix products of the CPU for as long as what is returned lives.

    Where the number of rows is odd, the terms are added from the last to the first; where it is even, in two halves.
    Libraries too choose their kernels by the shape: what a row gives alone differs from what it gives among others.
    """
    torch.backends.cuda.enable_flash_sdp(False)  # the CPU's too: attention is then made of products and a softmax
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings(action="ignore"):  # torch says that it had kernels
        library.impl("mm", lambda left, right: _product(left[None], right[None])[0], "CPU")
        library.impl("bmm", _product, "CPU")
        library.impl("addmm", _with_bias, "CPU")
    return library


def _product(left: Tensor, right: Tensor) -> Tensor:
    terms = left.shape[-1]
    if left.shape[-2] % 2:
        return _plain(left.flip(-1), right.flip(-2))
    if terms < 2:
        return _plain(left, right)
    half = terms // 2
    return _plain(left[..., :half], right[:, :half]) + _plain(left[..., half:], right[:, half:])


def _plain(left: Tensor, right: Tensor) -> Tensor:
    """The product of stacks of matrices, by the one kernel that is not replaced."""
    nothing = left.new_zeros((left.shape[0], left.shape[1], right.shape[2]))
    return torch.ops.aten.baddbmm.default(nothing, left, right, beta=0)


def _with_bias(bias: Tensor, left: Tensor, right: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    product = _product(left[None], right[None])[0]
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else product + (bias if beta == 1 else bias * beta)
