"""Rotation: another basis for an axis, in every parameter that carries it; the function stays as it is."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.analysis.groups import Group
from graphprune.edits.obstacles import ROTATED, Along, find_obstacle
from graphprune.edits.tensors import like, require_dense, require_whole
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph

_ORTHOGONAL = 1e-4  # what QᵀQ may lack of the identity, as float32 rounds it


def rotate(graph: Graph, id: str, basis: Tensor) -> Graph:
    """Return the graph with the units of a group expressed in another basis: the columns of `basis`, [units, units].

    Only values change. Raises PlanError for a matrix that is not orthogonal, and where a call treats the units one by
    one, with its name: a norm with a weight, an elementwise scale, a norm that takes the mean away.
    """
    analysis = analyze_axes(graph)
    group = next((g for g in analysis.groups.groups if g.id == id), None)
    if group is None:
        raise PlanError(f"{id} is no group of this model, so that it cannot be rotated")
    require_dense(graph, f"{id} cannot be rotated")
    require_rotatable(analysis, group)
    if tuple(basis.shape) != (group.units, group.units) or not is_orthogonal(basis):
        raise PlanError(f"{id} is rotated by an orthogonal matrix of {group.units} columns, which this is not")
    tensors = graph.tensors()
    return replace(graph.with_tensors(rotated_tensors(tensors, group, basis)), companions={})


def require_rotatable(analysis: Analysis, group: Group) -> None:
    """Raise PlanError, with the first call that stands in the way, where a group has no other basis."""
    told = f"{group.id} cannot be rotated"
    if group.locked is not None:
        raise PlanError(f"{told}: it {group.locked}")
    along = Along(analysis.inference, analysis.inference.algebra.find(analysis.atoms[group.id]))
    obstacle = find_obstacle(analysis.graph, along, ROTATED)
    if obstacle is not None:
        raise PlanError(f"{told}: {obstacle}")
    require_whole(analysis.graph, group.slots, told)


def is_orthogonal(basis: Tensor) -> bool:
    wide = basis.double()
    return bool((wide.T @ wide - torch.eye(len(wide), dtype=wide.dtype, device=wide.device)).abs().max() < _ORTHOGONAL)


def rotated_tensors(tensors: Mapping[str, Tensor], group: Group, basis: Tensor) -> dict[str, Tensor]:
    """New values for the tensors that carry a group: each entry along the group becomes its coordinate in the basis."""
    found = dict[str, Tensor]()
    for slot in group.slots:
        old = tensors[slot.name]
        wide = found.get(slot.name, old).detach().double()
        turned = torch.tensordot(wide, basis.double().to(wide.device), dims=([slot.dim], [0])).movedim(-1, slot.dim)
        found[slot.name] = like(turned, old)
    return found


def random_basis(size: int, seed: int) -> Tensor:
    """A random orthogonal matrix, uniform over all: float64 [size, size]."""
    drawn = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    q, r = torch.linalg.qr(drawn)
    basis: Tensor = q * r.diagonal().sign()
    return basis
