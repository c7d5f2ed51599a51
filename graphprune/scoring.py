"""Sums over what a unit owns: from a value for every entry of the parameters to one value for every unit."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy
import torch
from torch import Tensor

from graphprune.groups import Group, Slot
from graphprune.ir import Graph

# `element`: every entry counts by itself; `vector`: a row or column is summed before its magnitude is taken.
Aggregate = Literal["element", "vector"]


def parameter_slots(graph: Graph, group: Group) -> dict[str, tuple[Slot, ...]]:
    """The group's slots by parameter, without buffers; a tied one appears once, with the slots of all its names."""
    tensors = graph.tensors()
    names = {id(tensor): name for name, tensor in graph.parameters().items()}
    found: dict[str, tuple[Slot, ...]] = {}
    for slot in group.slots:
        name = names.get(id(tensors[slot.name]))
        if name is not None:
            found[name] = (*found.get(name, ()), slot)
    return found


def score_groups(
    graph: Graph, groups: Sequence[Group], entries: Callable[[str], Tensor], aggregate: Aggregate
) -> dict[str, Tensor]:
    """Sum `entries(name)`, shaped like that parameter, over what each unit owns: group id -> float64 [units]."""
    slots = {group.id: parameter_slots(graph, group) for group in groups}
    totals = {group.id: torch.zeros(group.units, dtype=torch.float64) for group in groups}
    for name in dict.fromkeys(name for members in slots.values() for name in members):
        values = entries(name)  # one parameter at a time: the entries of a large model are as large as the model
        for group in groups:
            if name in slots[group.id]:
                totals[group.id] += unit_sums(values, slots[group.id][name], group.units, aggregate)
    return totals


def unit_sums(entries: Tensor, slots: Sequence[Slot], units: int, aggregate: Aggregate = "element") -> Tensor:
    """Sum the entries of one parameter that each unit owns through its slots: float64 [units] on the CPU.

    `element` sums magnitudes; `vector` takes the magnitude of the sum over each index of the slot's dimension. An entry
    that one unit owns through two dimensions counts once, through the first; one that two units own counts for both,
    because it goes with either.
    """
    values = entries.float().abs() if aggregate == "element" else entries.float()
    totals = torch.zeros(units, dtype=torch.float64)
    for position, slot in enumerate(slots):
        part = values
        for earlier in slots[:position]:
            part = part * differ(earlier, slot, values)
        others = [dim for dim in range(part.ndim) if dim != slot.dim]
        line = part.sum(others) if others else part
        owner = torch.from_numpy(numpy.asarray(slot.owner))
        owned = owner >= 0
        # On the CPU index_add_ adds in order, so that the same scores come out every time.
        totals.index_add_(0, owner[owned], line.abs().double().cpu()[owned])
    return totals


def differ(first: Slot, second: Slot, like: Tensor) -> Tensor:
    """A mask that broadcasts to the parameter: 0 where both slots give an entry to the same unit, else 1."""
    a, b = (broadcast(slot, like) for slot in (first, second))
    return (a != b) | (a < 0)


def broadcast(slot: Slot, like: Tensor) -> Tensor:
    """The owners of a slot along its dimension, shaped to broadcast over the parameter."""
    shape = [-1 if dim == slot.dim else 1 for dim in range(like.ndim)]
    return torch.from_numpy(numpy.asarray(slot.owner)).to(like.device).view(shape)
