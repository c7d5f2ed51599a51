"""Bound units: those that read one group of a pattern such as 2:4, and so stay or go together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphprune.analysis.groups import Group, Groups
from graphprune.ir.graph import Graph
from graphprune.weights.patterns import groups_along

Sizes = Mapping[tuple[str, int], int]  # of the groups of a pattern, by parameter and dimension


def pattern_sizes(graph: Graph) -> Sizes:
    """How many inputs a group of the pattern has, for each parameter and dimension along which one has groups."""
    found = ((groups_along(kind), part) for kind, part in graph.companions.items())
    return {(name, along[1]): along[0].size for along, part in found if along is not None for name in part}


def bind_units(graph: Graph, groups: Groups) -> Groups:
    """The groups, those that a pattern binds with the count of units that stay or go together as their multiple.

    Locked, where units are bound in parts of different size: no count of them keeps every group of the pattern whole.
    """
    sizes = pattern_sizes(graph)
    return replace(groups, groups=tuple(bound(group, sizes) for group in groups.groups)) if sizes else groups


def bound(group: Group, sizes: Sizes) -> Group:
    parts = bound_parts(group, sizes)
    if parts is None:
        return group
    counts = numpy.bincount(parts)
    if len(counts) and (counts == counts[0]).all():
        return replace(group, multiple=math.lcm(group.multiple, int(counts[0])))
    reason = "is read in groups of a pattern of zeros, which its units do not share evenly"
    return replace(group, locked=group.locked or reason)


def bound_parts(group: Group, sizes: Sizes) -> NDArray[numpy.int64] | None:
    """The number of the part that each unit is in; None where no pattern reads the group."""
    found = [(slot.owner, sizes.get((slot.name, slot.dim))) for slot in group.slots]
    alike = {(owner.tobytes(), size): (owner, size) for owner, size in found if size and len(owner) % size == 0}
    if not alike:
        return None
    root = numpy.arange(group.units + 1)  # the last stands for indices that no unit owns, which never go
    for owner, size in alike.values():
        for owners in numpy.unique(owner.reshape(-1, size), axis=0):
            members = numpy.unique(root[owners])
            root[numpy.isin(root, members)] = members[0]
    if (root[:-1] == root[-1]).any():
        return numpy.zeros(group.units, dtype=numpy.int64)  # bound to what stays: all or nothing
    return numpy.unique(root[:-1], return_inverse=True)[1]


def pool_scores(graph: Graph, candidates: Sequence[Group], scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The scores, units that stay or go together with the mean of theirs."""
    sizes = pattern_sizes(graph)
    return {**scores, **{g.id: pooled(g, scores[g.id], sizes) for g in candidates if sizes and g.id in scores}}


def pooled(group: Group, scores: Tensor, sizes: Sizes) -> Tensor:
    parts = bound_parts(group, sizes) if group.slots else None
    if parts is None:
        return scores
    place = torch.from_numpy(parts)
    sums = scores.new_zeros(2, int(place.max()) + 1).index_add(1, place, torch.stack([scores, torch.ones_like(scores)]))
    return (sums[0] / sums[1])[place]
