"""Shelf: values that wait on the disk, as they are, until they are read again."""

import mmap
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from graphprune.weights.mapping import release

_LARGE = 1 << 16  # bytes from which a value is worth a file


def is_large(tensor: Tensor) -> bool:
    """Whether a value is worth a file."""
    return tensor.nbytes >= _LARGE and tensor.device.type == "cpu"


def shelve(tensor: Tensor, folder: Path) -> Tensor:
    """The same values in a file of the folder, which has no name and is gone with the tensor.

    Its pages are the system's to write and to take back, for which `mapping.release` asks. Raises OSError where the
    disk is full.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, tensor.nbytes)  # a full disk is told here, not by a signal later
        memory = mmap.mmap(file.fileno(), tensor.nbytes)
    held: Tensor = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel()).view(tensor.shape)
    held.copy_(tensor)
    release(held)
    return held
