"""Storage: tensors in memory of their own, as safetensors files hold them."""

from collections.abc import Mapping

import torch
from torch import Tensor


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, detached; a view into larger memory and every further tensor in the same memory are copied."""
    seen = set[int]()
    found = {}
    for name, tensor in tensors.items():
        own = owns_memory(tensor) and tensor.untyped_storage().data_ptr() not in seen
        seen.add(tensor.untyped_storage().data_ptr())
        found[name] = tensor.detach() if own else tensor.detach().clone(memory_format=torch.contiguous_format)
    return found


def owns_memory(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.nbytes == tensor.untyped_storage().nbytes()
