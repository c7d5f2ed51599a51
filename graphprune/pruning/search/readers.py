"""Readers: the widths of which one linear call of a group reads all units, so that zeroed columns are a cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphprune.analysis.groups import BLOCKS, Group
from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.budget.budgets import Width
from graphprune.ir.graph import Graph
from graphprune.pruning.activations.unit_inputs import find_products
from graphprune.pruning.selection import top_units


@dataclass(frozen=True, eq=False)
class Reader:
    """The one call that reads a group's units: `owner[i]` is the unit of its input i, or -1."""

    group: Group
    call: LinearCall
    owner: NDArray[numpy.int64]

    def kept(self, count: int, scores: Tensor) -> Tensor:
        """The inputs that stay where the group keeps `count` units: ascending int64."""
        chosen = numpy.isin(self.owner, (*top_units(self.group, count, scores), -1))
        return torch.from_numpy(numpy.flatnonzero(chosen))


def find_readers(graph: Graph, widths: Sequence[Width]) -> Mapping[int, tuple[Reader, ...]]:
    """The readers of each width, by its place, where every group of it has one that reads nothing else's units.

    Left out are units that a norm or a choice runs over, that span several blocks, or that something else reads too:
    to zero what reads them is not to cut them.
    """
    solvable = {call.weight: call for call in find_linear_calls(graph)}
    shared = [call.x for call in find_linear_calls(graph, shared=True)]
    read = {(product.weight, product.weight_dim % 2): product for product in find_products(graph)}
    taken: dict[str, int] = {}
    found: dict[int, tuple[Reader, ...]] = {}
    for place, width in enumerate(widths):
        readers = [reader_of(group, solvable, set(read)) for group in width.groups]
        if all(reader is not None and shared.count(reader.call.x) == 1 for reader in readers):
            found[place] = tuple(reader for reader in readers if reader is not None)
            for reader in found[place]:
                taken[reader.call.weight] = taken.get(reader.call.weight, 0) + 1
    return {p: readers for p, readers in found.items() if all(taken[reader.call.weight] == 1 for reader in readers)}


def reader_of(group: Group, solvable: Mapping[str, LinearCall], read: set[tuple[str, int]]) -> Reader | None:
    """The reader of a group, if it has just one and cutting is zeroing."""
    if group.kind in BLOCKS or group.block is None or group.averaged or group.chosen:
        return None
    slots = [slot for slot in group.slots if (slot.name, slot.dim) in read]
    calls = [solvable.get(slot.name) for slot in slots]
    if len(slots) != 1 or calls[0] is None or slots[0].dim != (0 if calls[0].transposed else 1):
        return None
    return Reader(group, calls[0], slots[0].owner)
