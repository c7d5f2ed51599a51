"""Composition: the plan that does at once what two plans do one after the other."""

from dataclasses import replace

from graphprune.errors import PlanError
from graphprune.ir import Lineage
from graphprune.plan import Plan


def compose(first: Plan, second: Plan) -> Plan:
    """Return the plan for the source that equals `first` followed by `second` on its result.

    Units of the second plan are numbered in the first one's result. Statistics must agree where both cut.
    """
    if first.keep and second.keep and first.statistics != second.statistics:
        raise PlanError("plans with different norm statistics cannot be one plan; use the same for every step")
    keep = dict(first.keep)
    for id, units in second.keep.items():
        keep[id] = tuple(keep[id][u] for u in units) if id in keep else units
    dropped = dict.fromkeys((*first.dropped, *second.dropped))
    biases = dict.fromkeys((*first.biases, *second.biases))
    return Plan(keep, tuple(dropped), second.statistics if second.keep else first.statistics, tuple(biases))


def chain(first: Lineage, second: Lineage) -> Lineage:
    """The lineage of a graph that has the second lineage from a graph that has the first one."""
    there = replace(second.plan, keep={first.root(id): units for id, units in second.plan.keep.items()})
    ids = {**first.ids, **{new: first.root(old) for new, old in second.ids.items()}}
    return Lineage(compose(first.plan, there), {new: old for new, old in ids.items() if new != old})
