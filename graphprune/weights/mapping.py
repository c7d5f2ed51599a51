"""Mappings: memory that is a file's, which the system reads when it is looked at and may take back."""

import ctypes
import functools
import math
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: where torch puts the memory of a tensor
_MAPS = Path("/proc/self/maps")
_WILL_NEED = 3  # MADV_WILLNEED: the system begins to read, and does not wait
_DONT_NEED = 4  # MADV_DONTNEED: pages of a private mapping that nobody wrote to are the file's again
_MMAP_THRESHOLD, _LARGE = -3, 1 << 20  # M_MMAP_THRESHOLD, and the bytes from which a block is one of its own


def mapped_ranges(suffix: str = ".safetensors") -> tuple[tuple[int, int], ...]:
    """The addresses at which files of this name lie in the memory of this process; none where no system tells."""
    if not _MAPS.is_file():
        return ()
    found = []
    for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        place, _, *_, path = [*line.split(maxsplit=5), ""][:6] if line.count(" ") > 4 else [line, "", ""]
        if path.strip().endswith(suffix):
            start, _, end = place.partition("-")
            found.append((int(start, 16), int(end, 16)))
    return tuple(found)


def is_mapped(tensor: Tensor, ranges: tuple[tuple[int, int], ...]) -> bool:
    """Whether a tensor's memory is a file's."""
    start = tensor.untyped_storage().data_ptr()
    end = start + tensor.untyped_storage().nbytes()
    return any(low <= start and end <= high for low, high in ranges)


def release(tensor: Tensor) -> None:
    """Give the pages of a mapped tensor back; they are read again when it is looked at. Nothing may have written there.

    A tensor that is not contiguous stays: it shares its pages with others.
    """
    advise(tensor, _DONT_NEED)


def expect(tensor: Tensor) -> None:
    """Have the system read the pages of a mapped tensor from the disk while other work goes on."""
    advise(tensor, _WILL_NEED)


def advise(tensor: Tensor, advice: int) -> None:
    """Tell the system what becomes of the pages that are this tensor's alone, where it has any."""
    call = system_call()
    if call is None or not dense(tensor):
        return
    page = mmap.PAGESIZE
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    first, last = -(-start // page) * page, end // page * page
    if last > first:
        call(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)


@functools.cache
def system_call() -> Callable[..., int] | None:
    """madvise, where this system has it as Linux does."""
    return getattr(ctypes.CDLL(None), "madvise", None) if _MAPS.is_file() else None


def free_at_once() -> None:
    """Have large blocks of memory go back to the system as soon as they are freed, where the C library is GNU's.

    By itself it keeps blocks of up to 32 MiB for later ones, in pieces that do not fit them.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        option(_MMAP_THRESHOLD, _LARGE)


def empty_at(shape: Sequence[int], dtype: torch.dtype, place: int) -> Tensor:
    """Memory for a tensor whose address lies so many bytes behind a multiple of 64.

    Products in float32 have other bits where their operands lie otherwise: vectors are read from such multiples on.
    """
    count = math.prod(shape)
    memory = torch.empty(count + 128 // dtype.itemsize, dtype=dtype)
    start = (place - memory.data_ptr()) % ALIGNMENT // dtype.itemsize
    return memory[start : start + count].view(tuple(shape))


def copied(tensor: Tensor) -> Tensor:
    """A tensor's values in memory of its own that lies as the tensor's does."""
    result = empty_at(tensor.shape, tensor.dtype, tensor.data_ptr() % ALIGNMENT)
    return result.copy_(tensor)


def dense(tensor: Tensor) -> bool:
    """Whether a tensor fills the memory from its first element to its last, in whatever order."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.numel() > 0 and reach + 1 == tensor.numel()
