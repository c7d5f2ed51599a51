"""Matching: which group of the source a group of a cut graph is. Ids name places, and places can change with a cut."""

from collections.abc import Mapping

import numpy
from numpy.typing import NDArray

from graphprune.analysis.groups import Group, Groups, Slot
from graphprune.ir.plan import Plan

Place = tuple[str, int]


def match_groups(before: Groups, plan: Plan, after: Groups) -> dict[str, str]:
    """The id before the cut of each group after it, found by comparing who owns the indices of a shared slot."""
    places = slots_by_place(before)
    kept = {place: kept_indices(owners, plan) for place, owners in places.items()}
    return {group.id: source_of(group, places, kept) or group.id for group in after.groups}


def slots_by_place(groups: Groups) -> dict[Place, list[tuple[Group, Slot]]]:
    """The groups that share each parameter dimension."""
    places: dict[Place, list[tuple[Group, Slot]]] = {}
    for group in groups.groups:
        for slot in group.slots:
            places.setdefault((slot.name, slot.dim), []).append((group, slot))
    return places


def kept_indices(owners: list[tuple[Group, Slot]], plan: Plan) -> NDArray[numpy.int64]:
    """The indices of one parameter dimension that a plan leaves."""
    mask = numpy.ones(len(owners[0][1].owner), dtype=bool)
    for group, slot in owners:
        if group.id in plan.keep:
            mask &= (slot.owner < 0) | numpy.isin(slot.owner, plan.keep[group.id])
    return numpy.flatnonzero(mask)


def source_of(
    group: Group,
    places: Mapping[Place, list[tuple[Group, Slot]]],
    kept: Mapping[Place, NDArray[numpy.int64]],
) -> str | None:
    """The group before whose units, seen through the cut, are this group's units."""
    for slot in group.slots:
        place = (slot.name, slot.dim)
        for old, old_slot in places.get(place, []):
            seen = old_slot.owner[kept[place]]
            if len(seen) == len(slot.owner) and same_partition(slot.owner, seen):
                return old.id
    return None


def same_partition(new: NDArray[numpy.int64], old: NDArray[numpy.int64]) -> bool:
    """Say whether two numberings of units put the same indices together, and leave the same ones out."""
    pairs = set(zip(new.tolist(), old.tolist(), strict=True))
    firsts, seconds = {a for a, _ in pairs}, {b for _, b in pairs}
    unowned = all((a < 0) == (b < 0) for a, b in pairs)
    return unowned and len(pairs) == len(firsts) == len(seconds)
