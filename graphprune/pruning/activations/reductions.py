"""Reductions: what is summed of a value, over all of its tokens, in float64; each adds up over batches."""

from typing import Literal

import torch
from torch import Tensor

from graphprune.running.inputs import Batch, rows

Mean = Literal["mean", "l2"]


def tokens(batch: Batch, value: Tensor) -> Tensor:
    """How many rows of the last dimension there are: [1]."""
    return torch.tensor([value[..., 0].numel()], dtype=torch.float64)


def total(batch: Batch, value: Tensor) -> Tensor:
    """The sum over tokens: [n]."""
    return value.flatten(0, -2).sum(0, dtype=torch.float64)


def squares(batch: Batch, value: Tensor) -> Tensor:
    """The sum of squares over tokens: [n]."""
    return value.flatten(0, -2).double().square().sum(0)


def magnitudes(batch: Batch, value: Tensor, over_tokens: Mean, over_rows: Mean) -> Tensor:
    """The mean of magnitudes, or their root mean square, over the tokens of each row: summed, or its square: [n].

    Where the value does not have the batch's rows, all of its tokens are one row.
    """
    wide, count = value.flatten(0, -2).double(), rows(batch)
    parts = wide.reshape(count if len(wide) % count == 0 else 1, -1, wide.shape[-1])
    each = parts.abs().mean(1) if over_tokens == "mean" else parts.square().mean(1).sqrt()
    return each.sum(0) if over_rows == "mean" else each.square().sum(0)
