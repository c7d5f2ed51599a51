"""Inheritance: a model of another shape takes over the weights of one that is trained (CPM-2, arXiv 2106.10715).

Groups go by their ids, which models of one architecture share. Where the heir is narrower it has the units that matter
most, which is the very cut of them; where its MLPs or its vocabulary are wider, units are appended without effect.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Groups
from graphprune.edits.growth import Grow
from graphprune.edits.tensors import like
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Edit, Plan
from graphprune.rewriting.apply import apply
from graphprune.spec import print_spec


def inherit(source: Graph, heir: Graph, scores: Mapping[str, Tensor] | None = None, seed: int = 0) -> Graph:
    """Return the heir with the parameters of the source, which is of the same architecture and of another shape.

    `scores` [units] say by group which units an heir with fewer takes, the largest first; of a group without scores it
    takes the first. `seed` is of what new units are copies of. Buffers, such as rotary frequencies, stay the heir's.
    Raises PlanError where the two differ in more than widths, and where a group cannot shrink or grow.
    """
    made = apply(source, inheritance(analyze(source), analyze(heir), scores or {}, seed))
    given, own = made.tensors(), heir.tensors()
    require_alike(own, given)
    require_alike(given, own)
    taken = {name: like(given[name].detach().to(old.device).clone(), old) for name, old in heir.parameters().items()}
    return heir.with_tensors(taken)


def inheritance(source: Groups, heir: Groups, scores: Mapping[str, Tensor], seed: int) -> Plan:
    """The plan that makes the heir's widths of the source. Raises PlanError for groups that only one of them has."""
    wanted = {group.id: group.units for group in heir.groups}
    other = next((id for id in {**source.by_id(), **wanted} if id not in wanted or id not in source.by_id()), None)
    if other is not None:
        raise PlanError(
            f"{other} is a group of one of the two models alone; an heir differs in widths and nothing else"
        )
    edits, keep = list[Edit](), dict[str, tuple[int, ...]]()
    for group in source.groups:
        count = wanted[group.id]
        if count > group.units:
            edits.append(Edit(print_spec(Grow(count - group.units, seed)), group.id))
        elif count < group.units:
            keep[group.id] = largest(scores[group.id], count) if group.id in scores else tuple(range(count))
    return Plan(keep, (), "survivors", tuple(edits))


def largest(scores: Tensor, count: int) -> tuple[int, ...]:
    """The units with the largest scores, in order; of equal ones the first."""
    order = torch.argsort(scores, descending=True, stable=True)
    return tuple(sorted(order[:count].tolist()))


def require_alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Raise PlanError for a tensor that the other lacks, or has in another shape."""
    for name, tensor in one.items():
        if name not in other:
            raise PlanError(f"{name} is a tensor of one of the two models alone; take an heir of the same architecture")
        if tensor.shape != other[name].shape:
            shapes = f"{tuple(tensor.shape)} and {tuple(other[name].shape)}"
            raise PlanError(f"{name} would have the shapes {shapes}; the heir differs in what no group says")
