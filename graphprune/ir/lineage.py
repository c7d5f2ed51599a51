"""Lineage: which cuts made a graph from its source, and the one plan that they come to."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from graphprune.errors import PlanError
from graphprune.ir.plan import Plan

LATE = frozenset({"bias", "side-branch", "prompt"})  # edits that give the same before a cut as after it


@dataclass(frozen=True)
class Step:
    """One entry of a graph's history: the pass as a spec string, its seed, parameters before and after."""

    spec: str
    seed: int | None
    parameters_before: int
    parameters_after: int


@dataclass(frozen=True)
class Lineage:
    """What was cut since capture: one plan that makes this shape from the source in one go.

    `ids` gives the source's id of each group that has another id here; ids name places, and places change with a cut.
    """

    plan: Plan = field(default_factory=Plan)
    ids: Mapping[str, str] = field(default_factory=dict)

    def root(self, id: str) -> str:
        """The id that a group of this graph has in the source."""
        return self.ids.get(id, id)


def compose(first: Plan, second: Plan, apart: bool = False) -> Plan:
    """Return the plan for the source that equals `first` followed by `second` on its result.

    Units of the second plan are numbered in the first one's result. Statistics must agree where both cut. Raises
    PlanError for an edit of what the first plan cut: made on the source, it might change what the plan's ids mean.
    `apart` says that it does not, as of a plan that cuts tokens alone.
    """
    if first.keep and second.keep and first.statistics != second.statistics:
        raise PlanError("plans with different norm statistics cannot be one plan; use the same for every step")
    late = next((edit for edit in second.edits if edit.name not in LATE and edit not in first.edits), None)
    if late is not None and (first.keep or first.dropped) and not apart:
        raise PlanError(
            f"the edit {late} would be of a graph that was cut already; make all edits before anything is cut"
        )
    keep = dict(first.keep)
    for id, units in second.keep.items():
        keep[id] = tuple(keep[id][u] for u in units) if id in keep else units
    dropped = dict.fromkeys((*first.dropped, *second.dropped))
    edits = dict.fromkeys((*first.edits, *second.edits))
    return Plan(keep, tuple(dropped), second.statistics if second.keep else first.statistics, tuple(edits))


def chain(first: Lineage, second: Lineage, apart: bool = False) -> Lineage:
    """The lineage of a graph that has the second lineage from a graph that has the first one; `apart` as above."""
    there = replace(second.plan, keep={first.root(id): units for id, units in second.plan.keep.items()})
    ids = {**first.ids, **{new: first.root(old) for new, old in second.ids.items()}}
    return Lineage(compose(first.plan, there, apart), {new: old for new, old in ids.items() if new != old})
