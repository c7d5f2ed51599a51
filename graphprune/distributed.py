"""Tensors that are spread over processes: made whole, and filled from whole ones."""

import torch
from torch import Tensor


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that is spread over processes, in each of them; any other tensor as it is.

    Collective: all processes call it for the same tensors in the same order.
    """
    if not is_spread(tensor):
        return tensor
    return tensor.full_tensor()  # type: ignore[attr-defined, no-any-return]


def fill(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor, which is the same in every process, into one that may be spread over them."""
    with torch.no_grad():
        target.copy_(spread_like(target, value) if is_spread(target) else value)


def spread_like(target: Tensor, value: Tensor) -> Tensor:
    """This process's part of a whole tensor, spread as the target is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(target, DTensor)
    value = value.to(target.device, target.dtype)
    return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)


def is_spread(tensor: Tensor) -> bool:
    """Say whether a process holds only a part of this tensor."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.tensor import DTensor  # takes most of a second to import

    return isinstance(tensor, DTensor)
