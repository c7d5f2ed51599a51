"""Factors: a gate for each of several masks, on values whose rows are in as many equal parts, one after the other."""

from collections.abc import Callable

import torch
from torch import Tensor

from graphprune.errors import PlanError


def spread(gate: Tensor, owner: Tensor) -> Tensor:
    """The factor of each index [masks, n] by the gates of units [masks, units]; one where `owner` is `units`."""
    return torch.cat((gate, gate.new_ones(len(gate), 1)), 1).index_select(1, owner)


def scale(x: Tensor, line: Tensor, dim: int, by_row: bool, rows: int) -> Tensor:
    """The value times the factors [masks, n] along a dimension, part of rows by part of rows.

    What is the same for all `rows` of the batch, [1, ...], is made anew for each of them.
    """
    if len(line) > 1 and not by_row and dim > 0 and len(x) == 1:
        return on_parts(x.expand(rows, *x.shape[1:]), line, dim, True, torch.mul)
    return on_parts(x, line, dim, by_row, torch.mul)


def scale_mean(x: Tensor, line: Tensor, by_row: bool) -> Tensor:
    """A mean over all entries as the mean over those whose factor is not 0; x is zero at the others."""
    there = (line != 0).sum(1, keepdim=True).to(x.dtype)
    return on_parts(x, line.shape[1] / there, x.ndim - 1, by_row, torch.mul)


def present(x: Tensor, line: Tensor, dim: int, by_row: bool) -> Tensor:
    """The value where the factor is not 0, else zero."""
    return on_parts(x, line != 0, dim, by_row, torch.mul)


def leave(x: Tensor, line: Tensor, dim: int, by_row: bool, neutral: float) -> Tensor:
    """The value where a unit is there, and what counts for nothing where its factor is 0."""
    return on_parts(x, line, dim, by_row, lambda value, factor: torch.where(factor > 0, value, neutral))


def counted(gate: Tensor, size: int) -> Tensor:
    """Which of `size` places are taken where as many are as units are left: [masks, size]."""
    return (torch.arange(size, device=gate.device) < (gate > 0).sum(1, keepdim=True)).to(gate.dtype)


def on_parts(x: Tensor, line: Tensor, dim: int, by_row: bool, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A function of x and the factors beside it; several masks need rows that are told apart."""
    masks, line = len(line), line.to(x.dtype)
    if masks == 1:
        return function(x, line.view([-1 if d == dim else 1 for d in range(x.ndim)]))
    if not by_row:
        raise PlanError("several masks at once need rows that are told apart at every gate; run one after the other")
    parts = x.reshape(masks, -1, *x.shape[1:])
    if dim == 0:
        raise PlanError("units lie along the rows of a batch; run one mask after the other")
    shape = [masks, 1, *(-1 if d == dim else 1 for d in range(1, x.ndim))]
    return function(parts, line.view(shape)).reshape(x.shape)


def norm_of_survivors(
    x: Tensor, line: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, centred: bool, by_row: bool
) -> Tensor:
    """An RMS or layer norm over the last dimension with the statistics of those whose factor is not 0.

    Entries of x that are gone are zero.
    """
    count = (line != 0).sum(1, keepdim=True).to(x.dtype)  # [masks, 1]

    def over_those_left(total: Tensor) -> Tensor:
        return on_parts(total, 1 / count, total.ndim - 1, by_row, torch.mul)

    square = over_those_left((x * x).sum(-1, keepdim=True))
    if not centred:
        result = x * torch.rsqrt(square + eps)
    else:
        mean = over_those_left(x.sum(-1, keepdim=True))
        result = (x - mean) * torch.rsqrt(square - mean * mean + eps)
    result = result if weight is None else result * weight
    return result if bias is None else result + bias
