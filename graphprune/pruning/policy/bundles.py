"""Bundles: units that stay or go together while a policy is learned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphprune.analysis.groups import BLOCKS, Group
from graphprune.budget.budgets import ROUNDED_KINDS

Numbers = NDArray[numpy.float64]  # one for each bundle
Masks = NDArray[numpy.bool_]  # [masks, bundles]


@dataclass(frozen=True)
class Run:
    """The places of the bundles of one group, and how many units of it stay at least."""

    place: slice
    least: int


@dataclass(frozen=True, eq=False)
class Bundles:
    """The bundles of candidates: `owner[id][unit]` is the bundle of a unit, `sizes` the units of each bundle.

    `runs` are the bundles of groups; branches and layers are in none, since all of them may go.
    """

    owner: Mapping[str, Tensor]
    sizes: Numbers
    runs: tuple[Run, ...]

    def __len__(self) -> int:
        return len(self.sizes)

    def factors(self, masks: Masks, like: Tensor) -> dict[str, Tensor]:
        """What gates take: [masks, units] for each candidate, in the type and on the device of a tensor."""
        kept = torch.from_numpy(masks).to(like)
        return {id: kept[:, owner.to(like.device)] for id, owner in self.owner.items()}

    def spread(self, numbers: Numbers) -> dict[str, Tensor]:
        """The number of each bundle for each of its units: float64."""
        return {id: torch.from_numpy(numbers)[owner] for id, owner in self.owner.items()}

    def complete(self, masks: Masks, shares: Numbers) -> Masks:
        """The masks, with the likeliest bundles of a group added where less than its least would stay."""
        found = masks.copy()
        for run in self.runs:
            kept, sizes = found[:, run.place], self.sizes[run.place]
            for mask in numpy.flatnonzero(kept @ sizes < run.least):
                for place in numpy.argsort(-shares[run.place], kind="stable"):
                    if kept[mask] @ sizes >= run.least:
                        break
                    kept[mask, place] = True
        return found


def tie_up(candidates: Sequence[Group], scores: Mapping[str, Tensor], size: int) -> Bundles:
    """Channels in bundles of `size`, those that follow each other in the order of their scores; the last is smaller.

    Heads and experts are a bundle each, and so is a branch; all branches of a layer are one.
    """
    owner, sizes, runs, ties = dict[str, Tensor](), list[int](), list[Run](), dict[str, int]()
    for group in candidates:
        first = len(sizes)
        if group.kind in BLOCKS:
            place = ties.setdefault(group.tie or group.id, first)
            sizes += [1] * (place == first)
            owner[group.id] = torch.tensor([place])
            continue
        order = torch.argsort(scores[group.id].cpu(), descending=True, stable=True)
        places = torch.arange(group.units) // bundle_of(group, size)
        owner[group.id] = torch.empty_like(order).index_copy_(0, order, first + places)
        sizes += torch.bincount(places).tolist()
        runs.append(Run(slice(first, len(sizes)), group.least))
    return Bundles(owner, numpy.array(sizes, dtype=numpy.float64), tuple(runs))


def bundle_of(group: Group, size: int) -> int:
    """How many units of a group make a bundle: of channels `size`, or the next that kernels can run on."""
    return -(-size // group.multiple) * group.multiple if group.kind in ROUNDED_KINDS else 1


def smallest_fit(candidates: Sequence[Group], most: int) -> int | None:
    """The smallest size with which there are `most` bundles or fewer; None where no size does that."""
    largest = max((group.units for group in candidates if group.kind in ROUNDED_KINDS), default=1)
    for size in range(1, largest + 1):
        if sum(-(-group.units // bundle_of(group, size)) for group in candidates) <= most:
            return size
    return None
