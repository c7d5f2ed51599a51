"""Grids: weights that lie on sixteen values a block, known beside them so that files in 4 bits hold these values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

Block = Literal[16, 32, 64, 128, 256]
MOST = 15  # the largest of the codes of 4 bits
# The kinds of companions that a weight on a grid has: of every entry its code, and the scale and offset of its block.
CODE, SCALE, OFFSET = GRID = ("grid.code", "grid.scale", "grid.offset")
_ROUNDED = 2.0**-8  # of a value: what rounding to bfloat16 changes at most
_NEAR = 2.0**-10  # of a step of the grid


@final
@dataclass(frozen=True, eq=False)
class Grid:
    """A matrix [outputs, inputs] whose entries are (code - offset) scale: codes in uint8, from 0 to 15.

    Scales and offsets, which need not be whole numbers, are [outputs, blocks], one for each `block` inputs in a row;
    the last block may have fewer.
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor
    block: int

    def values(self) -> Tensor:
        """The matrix, in the type of the scales."""
        return (self.codes.to(self.scale.dtype) - self.spread(self.offset)) * self.spread(self.scale)

    def spread(self, blocks: Tensor) -> Tensor:
        """What each entry has of something that blocks have: [outputs, inputs]."""
        return blocks.repeat_interleave(self.block, 1)[:, : self.codes.shape[1]]

    def moved(self, change: Tensor) -> "Grid":
        """The grid after every entry of a block has changed by as much, [outputs, blocks]: codes and scales stay."""
        return replace(self, offset=self.offset - change / self.scale)

    def companions(self) -> Mapping[str, Tensor]:
        """The code, scale and offset of each entry by kind, in the matrix' shape."""
        scale, offset = self.spread(self.scale).contiguous(), self.spread(self.offset).contiguous()
        return {CODE: self.codes, SCALE: scale, OFFSET: offset}

    def is_whole(self) -> bool:
        """Whether every offset is a code itself."""
        return bool(((self.offset == self.offset.round()) & (self.offset >= 0) & (self.offset <= MOST)).all())


def fit_grid(matrix: Tensor, block: int) -> Grid:
    """The grid of a matrix [outputs, inputs]: from the least to the largest entry of each block, 0 among them.

    So onnxruntime packs. A block of zeros has the scale 1, so that it can be moved.
    """
    outputs, inputs = matrix.shape
    padded = torch.nn.functional.pad(matrix.detach(), (0, -inputs % block)).view(outputs, -1, block)
    least, largest = padded.amin(2).clamp(max=0), padded.amax(2).clamp(min=0)
    scale = (largest - least) / MOST
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    offset = (-least / scale).round().clamp(0, MOST)
    codes = (padded / scale[..., None] + offset[..., None]).round().clamp(0, MOST)
    return Grid(codes.to(torch.uint8).view(outputs, -1)[:, :inputs].contiguous(), scale, offset, block)


def find_grid(matrix: Tensor, beside: Sequence[Tensor], block: int) -> Grid | None:
    """The grid of a matrix by its companions, in the order of `GRID`, in blocks of so many inputs.

    None where it does not lie on it: where a cut has taken inputs, which moves blocks, or where the weights have been
    changed otherwise than by rounding them to half precision.
    """
    codes, scale, offset = beside
    grid = Grid(codes, scale[:, ::block].contiguous(), offset[:, ::block].contiguous(), block)
    if not torch.equal(grid.spread(grid.scale), scale) or not torch.equal(grid.spread(grid.offset), offset):
        return None
    values = grid.values()
    room = torch.maximum(values.abs() * _ROUNDED, scale.abs() * _NEAR)
    return grid if bool(((matrix.detach().to(scale.dtype) - values).abs() <= room).all()) else None
