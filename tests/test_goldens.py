"""Printed graphs, groups and plans of a few architectures; `--update-golden` writes them."""

from collections.abc import Callable

import numpy
import pytest

from graphprune.analysis.groups import Group, Groups, Slot
from graphprune.ir.plan import Plan
from graphprune.ir.printing import print_graph
from tests.support.families import analysis, families, graph
from tests.support.zoo import FAMILIES

Golden = Callable[[str], None]
PRINTED = tuple(FAMILIES)


def print_owner(slot: Slot) -> str:
    """The units along a dimension as runs: `0..43` counts up, `3*8` is unit 3 eight times, `-` belongs to no unit."""
    owner, parts, start = slot.owner.tolist(), [], 0
    while start < len(owner):
        same = run_length(owner, start, 0)
        up = run_length(owner, start, 1) if owner[start] >= 0 else 1
        first, length = owner[start], max(same, up)
        if first < 0:
            parts.append(f"-*{same}")
            length = same
        elif same >= up:
            parts.append(f"{first}*{same}" if same > 1 else str(first))
        else:
            parts.append(f"{first}..{first + up - 1}")
        start += length
    return " ".join(parts)


def run_length(owner: list[int], start: int, step: int) -> int:
    end = start + 1
    while end < len(owner) and owner[end] == owner[end - 1] + step:
        end += 1
    return end - start


def print_group(group: Group) -> list[str]:
    flags = ["averaged"] * group.averaged + [f"locked: {group.locked}"] * (group.locked is not None)
    block = f" in {group.block}" if group.block else ""
    lines = [f"{group.id}  {group.kind} x{group.units}{block}" + "".join(f"  {flag}" for flag in flags)]
    return lines + [f"    {slot.name}:{slot.dim}  {print_owner(slot)}" for slot in group.slots]


def print_groups(groups: Groups) -> str:
    lines = [line for group in groups.groups for line in print_group(group)]
    branches = [
        f"{b.id}  {b.skip} + {b.branch} at {b.add}  caches: {' '.join(b.caches) or '-'}" for b in groups.branches
    ]
    terms = sorted(groups.costs.parameters.terms.items())
    cost = [f"{count:+d} {' '.join(term)}".rstrip() for term, count in terms]
    return "\n".join([*lines, "branches", *branches, "parameters", *cost])


def plan_of(groups: Groups) -> Plan:
    """Every other unit of each group that may be cut, and without the last branch."""
    return Plan({g.id: tuple(range(0, g.units, 2)) for g in groups.prunable()}, (groups.branches[-1].id,))


def test_owners_are_printed_as_runs() -> None:
    owner = numpy.array([0, 1, 2, 2, 2, -1, -1, 0, 0, 5])
    assert print_owner(Slot("w", 0, owner)) == "0..2 2*2 -*2 0*2 5"


@pytest.mark.parametrize("name", families(PRINTED))
def test_groups(name: str, golden: Golden) -> None:
    golden(print_groups(analysis(name).groups))


@pytest.mark.parametrize("name", families(PRINTED))
def test_plan(name: str, golden: Golden) -> None:
    golden(plan_of(analysis(name).groups).to_json())


@pytest.mark.parametrize("name", families(("llama", "cnn")))
def test_graph(name: str, golden: Golden) -> None:
    golden(print_graph(graph(name)))
