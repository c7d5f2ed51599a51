"""Types of moments: float32, bfloat16 rounded at random, or 8 bits on a scale of powers.

A moment changes by a few percent in a step, less than half of what two neighbours in bfloat16 are apart; rounded to the
nearest it would stand still, rounded at random it moves as it should on the mean. The 8 bits are a sign and one of 127
powers of a factor below the largest of 256 neighbours, a block, as in 8-bit Adam (Dettmers et al., arXiv 2110.02861),
whose scale is a tree of fractions. What is read and put back without change gives the same bits.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from graphprune.training.options import States

_BLOCK = 256
_LEVELS = 127
_RANGE = 20.0  # powers of two below the largest of a block: a part in a million
_EACH = _RANGE / (_LEVELS - 1)


@final
@dataclass(eq=False)
class Narrow:
    """A moment of any shape as flat numbers: themselves, in float32 or bfloat16, or codes with a scale a block."""

    shape: torch.Size
    codes: Tensor
    scales: Tensor | None = None

    def put(self, part: slice, value: Tensor, draw: torch.Generator | None = None) -> None:
        """Take flat values in float32 for a part that begins with a block; rounded at random where `draw` is given."""
        if self.scales is None:
            self.codes[part] = value if self.codes.dtype == torch.float32 else to_bfloat16(value, draw)
            return
        codes, scales = to_codes(value, draw)
        self.codes[part] = codes
        self.scales[part.start // _BLOCK :][: len(scales)] = scales


def narrow(value: Tensor, states: States) -> Narrow:
    """A tensor in float32 as a moment is kept."""
    kind = {"float32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[states]
    count = value.numel()
    scales = value.new_zeros(-(-count // _BLOCK)) if states == "int8" else None
    made = Narrow(value.shape, torch.zeros(count, dtype=kind, device=value.device), scales)
    made.put(slice(0, count), value.reshape(-1))
    return made


def widen(moment: Narrow, part: slice | None = None) -> Tensor:
    """A moment in float32: whole, in its shape, or a flat part of it that begins with a block."""
    place = slice(0, moment.codes.numel()) if part is None else part
    codes = moment.codes[place]
    if moment.scales is None:
        value = codes.to(torch.float32) if codes.dtype != torch.float32 else codes
    else:
        value = from_codes(codes, moment.scales[place.start // _BLOCK :])
    return value.view(moment.shape) if part is None else value


def to_bfloat16(value: Tensor, draw: torch.Generator | None) -> Tensor:
    if draw is None:
        return value.to(torch.bfloat16)
    noise = torch.randint(1 << 16, value.shape, generator=draw, device=value.device, dtype=torch.int32)
    return ((value.contiguous().view(torch.int32) + noise) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)


def to_codes(value: Tensor, draw: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Codes of the flat values, and the scale of each block. Nothing but zero becomes zero."""
    blocks = torch.nn.functional.pad(value, (0, -len(value) % _BLOCK)).view(-1, _BLOCK)
    scales = blocks.abs().amax(1)
    level = torch.log2(blocks.abs() / scales.clamp_min(1e-38)[:, None]) / _EACH + _LEVELS
    if draw is None:
        level = level.round()
    else:
        level = (level + torch.rand(level.shape, generator=draw, device=level.device)).floor()
    codes = (level.clamp(1, _LEVELS) * blocks.sign()).to(torch.int8)
    return codes.view(-1)[: len(value)], scales


def from_codes(codes: Tensor, scales: Tensor) -> Tensor:
    blocks = torch.nn.functional.pad(codes, (0, -len(codes) % _BLOCK)).view(-1, _BLOCK).to(torch.float32)
    size = torch.exp2((blocks.abs() - _LEVELS) * _EACH) * scales[: len(blocks), None]
    return (size * blocks.sign()).view(-1)[: len(codes)]
