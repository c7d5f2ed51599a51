"""The zoo with gates: every candidate that has one, and masks for them."""

import functools
import random
from collections.abc import Mapping

import torch
from torch import Tensor

from graphprune.analysis.groups import Group
from graphprune.errors import PlanError
from graphprune.gates.gated import Gated, gate
from graphprune.gates.sites import find_sites
from graphprune.ir.plan import Plan, Statistics
from graphprune.pruning.blocks import block
from tests.support import oracle
from tests.support.families import wide


@functools.cache
def gateable(name: str) -> tuple[Group, ...]:
    """The groups of a family whose units have gates."""
    analysis, found = wide(name).analysis, []
    for group in analysis.groups.prunable():
        try:
            if not group.chosen:
                find_sites(analysis, group)
            found.append(group)
        except PlanError:
            continue
    return tuple(found)


@functools.cache
def blocks(name: str) -> tuple[Group, ...]:
    return tuple(block(branch, "blocks", None) for branch in wide(name).analysis.groups.branches)


@functools.cache
def gated(name: str, statistics: Statistics = "exact") -> Gated:
    """A family's graph in fp64 with every gate that it can have."""
    return gate(wide(name).graph, [*gateable(name), *blocks(name)], statistics)


def hard(name: str, keep: Mapping[str, tuple[int, ...]], dropped: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Factors of 0 and 1."""
    groups = wide(name).analysis.groups
    found = {id: torch.zeros(groups[id].units).double().index_fill(0, torch.tensor(u), 1) for id, u in keep.items()}
    return found | {id: torch.zeros(1).double() for id in dropped}


def random_plan(name: str, seed: object, statistics: Statistics = "exact") -> Plan:
    """Other units of each group, and one branch less."""
    rng = random.Random(f"{name} {seed}")
    keep = {group.id: oracle.random_keep(group, rng) for group in gateable(name)}
    return Plan(keep, (rng.choice(blocks(name)).id,), statistics)


def results(names: tuple[str, ...], values: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """What a graph gives, but its caches, which keep their width under gates."""
    return {name: value for name, value in zip(names, values, strict=True) if not name.startswith("present")}


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest, by the largest value of each output."""
    assert one.keys() == other.keys()
    return max(float((one[n] - other[n]).abs().max()) / max(1.0, float(one[n].abs().max())) for n in one)
