"""Tensor names: a name for what tensors hold, whatever file or machine they are on."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from graphprune.weights.stored import give_back, memory_of

_BYTES = 8  # of a name


def name_tensors(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """A name for these tensors, by their names, types, shapes and bytes, and for what else is said of them."""
    digest = hashlib.blake2b(about.encode(), digest_size=_BYTES)
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(memory_of(tensor).detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        give_back(tensor)
    return digest.hexdigest()
