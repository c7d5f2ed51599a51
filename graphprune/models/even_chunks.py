"""Chunks along symbolic sizes: cut without the division that torch.export cannot prove to be even."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CHUNKS = (torch.chunk, torch.Tensor.chunk)


class EvenChunks(TorchFunctionMode):
    """Cuts `x.chunk(n, dim)` where n divides a symbolic size into n equal slices.

    torch counts the chunks by rounding: (4 s - 1) // s = 3 holds for every s, but its solver fixes s there.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _CHUNKS:
            pieces = even_chunks(*args, **(kwargs or {}))
            if pieces is not None:
                return pieces
        return func(*args, **(kwargs or {}))


def even_chunks(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...] | None:
    """The chunks as slices; None where the size is a number or not known to be a multiple."""
    size = x.shape[dim]
    if not isinstance(size, torch.SymInt):
        return None
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    if not statically_known_true(size % chunks == 0):
        return None
    each = size // chunks
    cut = torch.ops.aten.slice.Tensor
    return tuple(cut(x, dim, each * index, each * (index + 1)) for index in range(chunks))
