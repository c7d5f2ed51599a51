"""Limits at work: what a runtime's limits mean for a budget, and for the groups of a graph."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphprune.analysis.groups import Group, Groups
from graphprune.budget.budgets import Budget
from graphprune.errors import UsageError
from graphprune.runtimes.runtime import Runtime


def narrow(budget: Budget, runtime: Runtime) -> Budget:
    """The budget whose widths are those that the runtime holds."""
    multiples = {kind: limit.of for limit in runtime.limits if limit.rule == "multiple" for kind in limit.kinds}
    return replace(budget, equal=budget.equal | frozenset(runtime.kinds_under("equal")), multiples=multiples)


def held(groups: Groups, runtime: Runtime) -> Mapping[str, str]:
    """Why a group or a branch stays whole there, by its id."""
    reasons: dict[str, str] = {}
    for group in groups.groups:
        limit = runtime.limit_of("whole", group.kind)
        if limit is not None:
            reasons[group.id] = f"stays whole for {runtime.name}: {limit.why}"
    first = next((limit for limit in runtime.limits if limit.rule == "first"), None)
    if first is not None:
        start = min((branch.layer for branch in groups.branches), default=0)
        ids = [branch.id for branch in groups.branches if branch.layer == start and branch.caches]
        reasons |= dict.fromkeys(ids, f"stays for {runtime.name}: {first.why}")
    return reasons


def require_held(groups: Groups, candidates: Sequence[Group], runtime: Runtime) -> None:
    """Raise UsageError where what is not to be cut breaks a limit that the rest is cut by."""
    cut = {group.id for group in candidates}
    for group in groups.groups:
        limit = runtime.limit_of("multiple", group.kind)
        if limit is not None and group.id not in cut and group.units % limit.of:
            raise UsageError(
                f"--for {runtime.name}: {group.id} has {group.units} units and is not cut, and there it must be "
                f"{limit.words}; let it be cut (--prune {group.kind}, --scope, --protect), or choose another runtime"
            )
    for kind in runtime.kinds_under("equal"):
        alike = [group for group in groups.groups if group.kind == kind and group.units > 1]
        left = [group.id for group in alike if group.id not in cut]
        if left and len(left) < len(alike):
            raise UsageError(
                f"--for {runtime.name}: {kind} keeps the same count in every layer there, and {left[0]} is not to be "
                f"cut; name other kinds with --prune, or leave --scope and --protect out"
            )
