"""Sums over what a unit owns: from a value for every entry of the parameters to one value for every unit."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphprune.analysis.groups import Group, Slot
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph

# `element`: every entry counts by itself; `vector`: a row or column is summed before its magnitude is taken.
Aggregate = Literal["element", "vector"]
# How the members of a group, each a parameter along one dimension, make one score; `first` and `last` in graph order.
Reduction = Literal["sum", "mean", "max", "prod", "first", "last"]


class Key(NamedTuple):
    """A line: the sums over all but one dimension of a parameter. `part` tells lines with a mask of their own apart."""

    parameter: str
    dim: int
    part: str = ""


@dataclass(frozen=True, eq=False)
class Share:
    """Where a group takes from a line: `owner[i]` is the unit that index i counts for, or -1."""

    group: str
    owner: NDArray[numpy.int64]


@dataclass(frozen=True, eq=False)
class Layout:
    """The lines that the scores of some groups are made of, each summed once however many groups take from it.

    `slots` are, for a line with a mask, the slot itself and the earlier ones of the group on the same parameter.
    """

    units: Mapping[str, int]
    shares: Mapping[Key, tuple[Share, ...]]
    slots: Mapping[Key, tuple[Slot, tuple[Slot, ...]]]

    def by_parameter(self) -> dict[str, tuple[Key, ...]]:
        names = dict.fromkeys(key.parameter for key in self.shares)
        return {name: tuple(key for key in self.shares if key.parameter == name) for name in names}


def parameter_slots(graph: Graph, group: Group) -> dict[str, tuple[Slot, ...]]:
    """The group's slots by parameter, without buffers; a tied one appears once, with the slots of all its names."""
    tensors = graph.tensors()
    names = {id(tensor): name for name, tensor in graph.parameters().items()}
    return slots_by_parameter(tensors, names, group)


def slots_by_parameter(
    tensors: Mapping[str, Tensor], names: Mapping[int, str], group: Group
) -> dict[str, tuple[Slot, ...]]:
    """`parameter_slots` with the graph's tensors, and the names of its parameters by identity, given."""
    found: dict[str, tuple[Slot, ...]] = {}
    for slot in group.slots:
        name = names.get(id(tensors[slot.name]))
        if name is not None:
            found[name] = (*found.get(name, ()), slot)
    return found


def lay_out(graph: Graph, groups: Sequence[Group]) -> Layout:
    """The lines of the parameters that the groups own, and who takes what from each."""
    tensors = graph.tensors()
    names = {id(tensor): name for name, tensor in graph.parameters().items()}
    owned = [(g.id, name, slots) for g in groups for name, slots in slots_by_parameter(tensors, names, g).items()]
    return arrange({group.id: group.units for group in groups}, owned)


def arrange(units: Mapping[str, int], owned: Iterable[tuple[str, str, Sequence[Slot]]]) -> Layout:
    """The layout of (group, parameter, the group's slots on that parameter)."""
    shares: dict[Key, tuple[Share, ...]] = {}
    masked: dict[Key, tuple[Slot, tuple[Slot, ...]]] = {}
    for group, name, slots in owned:
        unique = distinct(slots)
        for position, slot in enumerate(unique):
            key = Key(name, slot.dim, f"{group} {position}" if position else "")
            if position:
                masked[key] = (slot, unique[:position])
            shares[key] = (*shares.get(key, ()), Share(group, numpy.asarray(slot.owner)))
    return Layout(units, shares, masked)


def distinct(slots: Sequence[Slot]) -> tuple[Slot, ...]:
    """The slots without those that repeat an earlier one, as the names of a tied parameter do."""
    found: list[Slot] = []
    for slot in slots:
        if not any(slot.dim == other.dim and numpy.array_equal(slot.owner, other.owner) for other in found):
            found.append(slot)
    return tuple(found)


def line_sums(layout: Layout, key: Key, entries: Tensor) -> Tensor:
    """Sum a parameter's entries over all dimensions but the line's: [size of the dimension], in the entries' type.

    An entry that one unit owns through two dimensions counts once, through the first.
    """
    if key in layout.slots:
        slot, earlier = layout.slots[key]
        for other in earlier:
            entries = entries * differ(other, slot, entries)
    others = [dim for dim in range(entries.ndim) if dim != key.dim]
    return entries.sum(others) if others else entries


def unit_scores(layout: Layout, lines: Mapping[Key, Tensor], members: Reduction = "sum") -> dict[str, Tensor]:
    """Give every unit the magnitudes of its indices of each line: group id -> float64 [units] on the CPU."""
    found: dict[str, list[Tensor]] = {id: [] for id in layout.units}
    for key, shares in layout.shares.items():
        if key not in lines:
            continue
        values = lines[key].detach().cpu().double().abs()
        for share in shares:
            owner = torch.from_numpy(share.owner)
            owned = owner >= 0
            # On the CPU index_add_ adds in order, so that the same scores come out every time.
            total = torch.zeros(layout.units[share.group], dtype=torch.float64)
            found[share.group].append(total.index_add_(0, owner[owned], values[owned]))
    return {id: reduce_members(found[id], units, members) for id, units in layout.units.items()}


def reduce_members(scores: Sequence[Tensor], units: int, how: Reduction) -> Tensor:
    """One score for each unit from those of the group's members, in their order: float64 [units]."""
    if not scores:
        return torch.zeros(units, dtype=torch.float64)
    if how in ("first", "last"):
        return scores[0 if how == "first" else -1]
    stacked = torch.stack(tuple(scores))
    if how == "max":
        return stacked.amax(0)
    if how == "prod":  # the root ranks alike, and does not leave the numbers that there are
        return stacked.log().mean(0).exp()
    total = stacked.sum(0)
    return total / len(scores) if how == "mean" else total


def require_members(layout: Layout, how: Reduction, what: str) -> None:
    """Raise UsageError for a product over a group that has one member."""
    for id in layout.units if how == "prod" else ():
        if sum(share.group == id for shares in layout.shares.values() for share in shares) < 2:
            raise UsageError(
                f"{what}{{members=prod}} multiplies over the weights that a unit is in, and those of {id} are in one "
                "alone; use members=sum, or leave it out of --prune"
            )


def score_groups(
    graph: Graph,
    groups: Sequence[Group],
    entries: Callable[[str], Tensor],
    aggregate: Aggregate,
    members: Reduction = "sum",
) -> dict[str, Tensor]:
    """Sum `entries(name)`, shaped like that parameter, over what each unit owns: group id -> float64 [units].

    `element` sums magnitudes; `vector` takes the magnitude of the sum over each index of a slot's dimension. An entry
    that two units own counts for both, because it goes with either.
    """
    layout = lay_out(graph, groups)
    lines: dict[Key, Tensor] = {}
    for name, keys in layout.by_parameter().items():
        values = magnitudes(entries(name), aggregate)  # one at a time: all entries are as large as the model
        lines |= {key: line_sums(layout, key, values) for key in keys}
    return unit_scores(layout, lines, members)


def unit_sums(entries: Tensor, slots: Sequence[Slot], units: int, aggregate: Aggregate = "element") -> Tensor:
    """`score_groups` for one parameter and one group: float64 [units] on the CPU."""
    layout, values = arrange({"": units}, [("", "", slots)]), magnitudes(entries, aggregate)
    return unit_scores(layout, {key: line_sums(layout, key, values) for key in layout.shares})[""]


def magnitudes(entries: Tensor, aggregate: Aggregate) -> Tensor:
    """The entries in float32 or wider, without their signs where each counts by itself."""
    return widen(entries).abs() if aggregate == "element" else widen(entries)


def widen(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where that is already wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def differ(first: Slot, second: Slot, like: Tensor) -> Tensor:
    """A mask that broadcasts to the parameter: 0 where both slots give an entry to the same unit, else 1."""
    a, b = (broadcast(slot, like) for slot in (first, second))
    return (a != b) | (a < 0)


def broadcast(slot: Slot, like: Tensor) -> Tensor:
    """The owners of a slot along its dimension, shaped to broadcast over the parameter."""
    shape = [-1 if dim == slot.dim else 1 for dim in range(like.ndim)]
    return torch.from_numpy(numpy.asarray(slot.owner)).to(like.device).view(shape)
