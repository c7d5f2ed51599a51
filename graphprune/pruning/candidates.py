"""Candidates: which groups a request may cut, and the budget that limits them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from graphprune.analysis.groups import BLOCKS, Group, Groups, Kind
from graphprune.analysis.layers import find_layers
from graphprune.budget.budgets import Budget, cost_of, reachable_minimum
from graphprune.errors import BudgetError, UsageError
from graphprune.pruning.blocks import find_blocks
from graphprune.suggestions import AUTO

# What `auto` leaves of every group at least, and the share of MLP and attention below which the residual width goes:
# a little less of everything costs less than the last of the channels (docs/methods/adapt-pruner.md).
AUTO_FLOOR, AUTO_WIDE = 0.2, 0.5
SPARE = "?"
_FIRST: tuple[Kind, ...] = ("mlp", "attention")


@dataclass(frozen=True, eq=False)
class Choice:
    """Candidates, the budget with its floor, and notes for the user."""

    candidates: tuple[Group, ...]
    budget: Budget
    notes: tuple[str, ...]


def out_of_reach(groups: Groups, scope: str | None, protect: tuple[float, float]) -> Mapping[str, str]:
    """Why a group or a branch stays whole, by its id: it lies outside the scope, or in a layer that is protected.

    `scope` is a regular expression that is sought in a module's name, `protect` counts layers from both ends, in shares
    of all where it is below 1. Groups that live in several layers, as the residual width does, are in none. Raises
    UsageError where nothing is left.
    """
    layers = find_layers(groups)
    first, last = (int(end if end >= 1 else end * len(layers) + 1e-9) for end in protect)
    ends = [*layers[:first], *layers[max(first, len(layers) - last) :]] if first or last else []
    inside = {branch.id for layer in ends for branch in layer}
    if inside and len(ends) == len(layers):
        raise UsageError(f"--protect {first},{last}: the model has {len(layers)} layers, and some must be left to cut")
    places = [(g.id, g.scope, g.block) for g in groups.groups] + [(b.id, b.id, b.id) for b in groups.branches]
    found = {id: f"lies outside --scope {scope}" for id, name, _ in places if scope and not re.search(scope, name)}
    if scope and len(found) == len(places):
        raise UsageError(f"--scope {scope}: no module of this model has such a name; see `graphprune inspect`")
    return found | {id: f"lies in one of the layers of --protect {first},{last}" for id, _, b in places if b in inside}


def reached(groups: Groups, beyond: Mapping[str, str]) -> Groups:
    """The groups, with those that stay whole locked for that reason."""
    held = tuple(replace(g, locked=g.locked or beyond[g.id]) if g.id in beyond else g for g in groups.groups)
    return replace(groups, groups=held)


def choose_candidates(
    groups: Groups, kinds: Sequence[str], budget: Budget, floor: float | None, beyond: Mapping[str, str] | None = None
) -> Choice:
    """The groups to cut for a budget, but for those that are `beyond` reach.

    `auto` takes MLP channels and attention groups (query heads in blocks of one key head, which stays), and the
    residual width too where less than half of these would be left, all down to a fifth; models without residual
    branches offer their other channels. A kind that is named with a question mark, `query?`, joins only where the
    others at a fifth do not reach the target. Raises BudgetError with the reachable minimum, UsageError where nothing
    of the named kinds can be cut.
    """
    beyond = beyond or {}
    groups = reached(groups, beyond)
    if AUTO not in kinds:
        budget = replace(budget, floor=floor or 0.0)
        first = (*named(groups, kinds), *free_blocks(groups, kinds, beyond))
        return with_spare(groups, first, [kind[:-1] for kind in kinds if kind.endswith(SPARE)], budget)
    budget = replace(budget, floor=AUTO_FLOOR if floor is None else floor)
    first = (*counted(groups, _FIRST, budget), *lone_queries(groups, budget)) or counted(groups, ("other",), budget)
    if not first:
        raise UsageError("this model has nothing that auto cuts; `graphprune inspect` shows the locks")
    half = replace(budget, floor=max(budget.floor, AUTO_WIDE))
    wide, residual = reachable_minimum(groups, first, half), counted(groups, ("residual",), budget)
    if wide <= budget.target or (not residual and reachable_minimum(groups, first, budget) <= budget.target):
        return Choice(first, budget, ())
    wider = (*first, *residual)
    reach = reachable_minimum(groups, wider, budget)
    share = f"{budget.floor:.0%}"
    if reach > budget.target:
        raise BudgetError(
            f"the target of {budget.quantity.show(budget.target)} is out of reach: {budget.quantity.show(reach)} is "
            f"the least with every MLP, attention and the residual width at {share}; lower --floor, name more --prune "
            f"kinds,{fewer_tokens(groups, budget)} or raise the target"
        )
    left = budget.quantity.show(wide)
    note = f"MLP and attention at {half.floor:.0%} still leave {left}: the residual width is cut too"
    return Choice(wider, budget, (note,))


def fewer_tokens(groups: Groups, budget: Budget) -> str:
    """What helps where much of a model is its tokens: nothing where they cannot go, or cost nothing."""
    return " keep fewer tokens (--vocabulary)," if counted(groups, ("vocabulary",), budget) else ""


def with_spare(groups: Groups, first: tuple[Group, ...], spare: Sequence[str], budget: Budget) -> Choice:
    """These groups, and those of the spare kinds where these, with a fifth of each left, do not reach the target."""
    wide = replace(budget, floor=max(budget.floor, AUTO_FLOOR))
    more = counted(groups, spare, budget)
    if not more or reachable_minimum(groups, first, wide) <= budget.target:
        return Choice(first, budget, ())
    kinds = " and ".join(sorted({group.kind for group in more}))
    return Choice((*first, *more), budget, (f"the other kinds at {wide.floor:.0%} leave too much: {kinds} goes too",))


def free_blocks(groups: Groups, kinds: Sequence[str], beyond: Mapping[str, str]) -> tuple[Group, ...]:
    """The blocks within reach; a layer is, where all of its branches are."""
    blocks = find_blocks(groups, kinds)
    held = {block.tie or block.id for block in blocks if block.id in beyond}
    return tuple(block for block in blocks if (block.tie or block.id) not in held)


def counted(groups: Groups, kinds: Sequence[str], budget: Budget) -> tuple[Group, ...]:
    """The prunable groups of these kinds that the budget's cost depends on."""
    variables = cost_of(groups, budget).variables()
    return tuple(group for group in groups.prunable(frozenset(kinds)) if group.id in variables)


def lone_queries(groups: Groups, budget: Budget) -> tuple[Group, ...]:
    """The query heads that the cost depends on, of the blocks that have one key head."""
    return tuple(group for group in with_one_key(groups) if group in counted(groups, ("query",), budget))


def with_one_key(groups: Groups) -> tuple[Group, ...]:
    """The query heads of the blocks that have one key head, or of a model where no block has more."""
    several = {group.block for group in groups.groups if group.kind == "attention" and group.units > 1}
    return tuple(g for g in groups.prunable(frozenset({"query"})) if not several & {g.block, None})


def named(groups: Groups, kinds: Sequence[str]) -> tuple[Group, ...]:
    """The prunable groups of the named kinds; an error where a kind has none, with the reason it is locked.

    Where every block has one key head, which stays, `attention` are the query heads.
    """
    result: list[Group] = []
    for kind in kinds:
        if kind in BLOCKS or kind.endswith(SPARE):
            continue
        found = groups.prunable(frozenset({kind})) or (with_one_key(groups) if kind == "attention" else ())
        if not found and BLOCKS.isdisjoint(kinds):  # else they may have been dropped
            raise UsageError(explain_none(groups, kind))
        result += found
    return tuple(result)


def explain_none(groups: Groups, kind: str) -> str:
    locked = next((g for g in groups.groups if g.kind == kind and g.locked), None)
    if locked is not None:
        return f"--prune {kind}: every such group is locked; {locked.id} {locked.locked}"
    return f"--prune {kind}: this model has no such groups; see `graphprune inspect`"
