"""Backward elimination: units leave one after the other, each time those that the remaining ones replace best."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

_STEP = 1e-6  # seen by float32


@dataclass(frozen=True, eq=False)
class Consumer:
    """What reads units: `owner[i]` is the unit of input i, or -1; two [k, k] matrices over the inputs, in float64.

    `inputs` is their second moment, `loss` the curvature of the loss in them. `solved` says that the weights left will
    be solved anew, so that they take over what they can.
    """

    owner: NDArray[numpy.int64]
    inputs: Tensor
    loss: Tensor
    solved: bool


def eliminate(units: int, consumers: Iterable[Consumer], damping: float, rounds: int) -> Tensor:
    """The cost at which each unit leaves, always rising in the order in which they go: float64 [units].

    The cost of unit U is the sum over consumers of tr(S_UU (H⁻¹_UU)⁻¹) / 2, with H the damped second moment of the
    inputs that are left and S the curvature of the loss with all earlier removals made up for: optimal brain surgeon
    (Hassibi 1993) for whole structures, as in ZipLM (arXiv 2302.04089). Units go in at most `rounds` rounds.
    """
    states = [State(consumer, damping) for consumer in consumers]
    result, left = torch.zeros(units, dtype=torch.float64), torch.ones(units, dtype=torch.bool)
    at_once, reached = -(-units // rounds), 0.0
    while bool(left.any()):
        costs = sum((state.costs(left) for state in states), start=torch.zeros(units, dtype=torch.float64)) / 2
        order = torch.argsort(costs.masked_fill(~left, torch.inf), stable=True)[: min(at_once, int(left.sum()))]
        for unit in order.tolist():
            # A little more each time, so that scores tell the order also where costs fall.
            reached = max(reached * (1 + _STEP), float(costs[unit]))
            result[unit] = reached
        left[order] = False
        for state in states:
            state.remove(order)
    return result


class State:
    """One consumer during the elimination: its moments and its curvature follow what was removed.

    `moment` is the damped second moment of its inputs or, of one that is solved anew, the inverse of it.
    """

    def __init__(self, consumer: Consumer, damping: float) -> None:
        self.owner = torch.from_numpy(consumer.owner)
        self.units = by_size(self.owner)
        # In units of each input's own energy: rescaled inputs change no cost, and each is damped by its own.
        energy = consumer.inputs.diagonal().clone()
        scale = torch.where(energy > 0, energy.clamp(min=1e-300).sqrt(), 1.0)
        damped = consumer.inputs / scale[:, None] / scale
        damped.diagonal().fill_(1.0 + max(damping, 1e-8))
        self.solved = consumer.solved
        self.moment = invert(damped) if consumer.solved else damped
        self.loss = consumer.loss * scale[:, None] * scale

    def costs(self, left: Tensor) -> Tensor:
        """The cost of each unit's removal now: float64 [units]; only those left mean something."""
        result = torch.zeros(len(left), dtype=torch.float64)
        for units, inputs in self.units:
            mine = left[units]
            if not bool(mine.any()):
                continue
            rows, cols = inputs[mine][:, :, None], inputs[mine][:, None, :]
            block = self.moment[rows, cols]
            weight = invert(block) if self.solved else block
            result[units[mine]] = (self.loss[rows, cols] * weight).sum((1, 2))
        return result

    def remove(self, units: Tensor) -> None:
        """Take units out, and let those left make up for them where the weights will be solved."""
        gone = torch.nonzero(torch.isin(self.owner, units)).flatten()
        if not len(gone):
            return
        if self.solved:
            block = invert(self.moment[gone][:, gone])
            take = block @ self.moment[gone]
            self.loss.addmm_(self.loss[:, gone], take, alpha=-1)
            self.loss.addmm_(take.T, self.loss[gone], alpha=-1)
            self.moment.addmm_(self.moment[:, gone], take, alpha=-1)
            # What is gone keeps a unit inverse, so that blocks of it can be inverted; its cost is not looked at.
            self.moment[gone] = 0.0
            self.moment[:, gone] = 0.0
            self.moment[gone, gone] = 1.0
        self.loss[gone] = 0.0
        self.loss[:, gone] = 0.0


def invert(matrices: Tensor) -> Tensor:
    """The inverses of positive definite matrices, [.., k, k]; of what rounding has made otherwise by pivoting.

    By Cholesky: torch's pivoting was seen to fail on two threads, with pivots that it had made itself.
    """
    factor, failed = torch.linalg.cholesky_ex(matrices)
    return torch.linalg.inv(matrices) if bool(failed.any()) else torch.cholesky_inverse(factor)


def by_size(owner: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The units that own equally many inputs, [units], and which these are, [units, size]: a pair for each size."""
    inputs = torch.argsort(owner, stable=True)[int((owner < 0).sum()) :]
    units, counts = torch.unique(owner[inputs], return_counts=True)
    starts = counts.cumsum(0) - counts
    found = []
    for size in counts.unique().tolist():
        chosen = counts == size
        found.append((units[chosen], inputs[starts[chosen][:, None] + torch.arange(size)]))
    return found
