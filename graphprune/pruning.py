"""Pruning: score, allocate within the budget, plan, rewrite - once, or in rounds that are each scored anew."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from graphprune.analysis import Analysis, analyze_axes
from graphprune.budget import Budget, reachable_minimum
from graphprune.candidates import Choice, choose_candidates
from graphprune.composition import compose
from graphprune.errors import BudgetError
from graphprune.influence import branch_influence
from graphprune.ir import Graph
from graphprune.matching import match_groups
from graphprune.options import AUTO
from graphprune.plan import Plan, Statistics
from graphprune.plugins import Allocation, Importance
from graphprune.rewrite import apply
from graphprune.selection import select

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What to prune to and how. `budget.target` is the size of the result; `floor` None means the default of `auto`."""

    budget: Budget
    importance: Importance
    allocation: Allocation
    kinds: tuple[str, ...] = (AUTO,)
    steps: int = 1
    floor: float | None = None
    statistics: Statistics = "survivors"


@dataclass(frozen=True, eq=False)
class Pruned:
    """The smaller graph, the plan that makes it from the source in one go, and notes for the user.

    `ids` gives the source's id of each group of `graph` whose id is another there.
    """

    graph: Graph
    plan: Plan
    notes: tuple[str, ...] = ()
    ids: Mapping[str, str] = field(default_factory=dict)


def prune(graph: Graph, request: Request, batches: Sequence[Tensor], report: Report = lambda *_: None) -> Pruned:
    """Prune a graph to the budget; the input graph stays as it is.

    With several steps the target falls linearly, and each round scores the model that the last one left. Groups keep
    their share of the source's width at least. Raises BudgetError where the target is out of reach.
    """
    current, total = Pruned(graph, Plan(statistics=request.statistics)), graph.parameter_count()
    if "blocks" in request.kinds:
        report("measuring blocks", 0, 0)
        current = drop_blocks(current, request, batches)
    choice = final_choice(current, request)
    for step in range(1, request.steps + 1):
        report("pruning", step - 1, request.steps)
        goal = total - (total - request.budget.target) * step // request.steps
        if current.graph.parameter_count() > goal:
            current = prune_once(current, choice, goal, request, batches)
    report("pruning", request.steps, request.steps)
    # In one go from the source: what is shipped is what the saved plan gives, to the last bit.
    final = graph if current.graph is graph else apply(graph, current.plan)
    return Pruned(final, current.plan, (*current.notes, *choice.notes), current.ids)


def final_choice(now: Pruned, request: Request) -> Choice:
    """The kinds that the final target needs, decided once, so that every round cuts the same kinds."""
    graph, groups = now.graph, analyze_axes(now.graph).groups
    choice = choose_candidates(groups, request.kinds, request.budget, request.floor)
    minimum = reachable_minimum(groups, choice.candidates, choice.budget)
    if graph.parameter_count() > request.budget.target and minimum > request.budget.target:
        raise BudgetError(
            f"the target of {request.budget.target:,} parameters is out of reach: the least is {minimum:,} with "
            f"--prune {','.join(request.kinds)}; prune more kinds, lower --floor or --min-units, or raise the target"
        )
    return replace(choice, candidates=tuple(replace(g, id=now.ids.get(g.id, g.id)) for g in choice.candidates))


def prune_once(now: Pruned, choice: Choice, goal: int, request: Request, batches: Sequence[Tensor]) -> Pruned:
    """One round: score the present model, choose, cut."""
    analysis = analyze_axes(now.graph)
    widths = {group.id: group.units for group in choice.candidates}
    candidates = tuple(
        g for g in analysis.groups.groups if now.ids.get(g.id, g.id) in widths and g.units > 1 and not g.locked
    )
    # Floors are shares of the source's width, not of what the last round left.
    share = choice.budget.floor
    least = {g.id: math.ceil(share * widths[now.ids.get(g.id, g.id)] - 1e-9) for g in candidates}
    budget = replace(choice.budget, target=goal, floor=0.0, least=least)
    scores = request.importance.score(now.graph, candidates, batches)
    counts = request.allocation.keep(analysis.groups, candidates, scores, budget)
    plan = replace(select(analysis.groups, counts, scores), statistics=request.statistics)
    return advance(now, plan, analysis)


def advance(now: Pruned, plan: Plan, analysis: Analysis) -> Pruned:
    """Apply a plan for the present graph, and add it to the plan for the source."""
    graph = apply(now.graph, plan, analysis)
    there = replace(plan, keep={now.ids.get(id, id): units for id, units in plan.keep.items()})
    matched = match_groups(analysis.groups, plan, analyze_axes(graph).groups)
    ids = {new: now.ids.get(old, old) for new, old in matched.items()}
    return Pruned(graph, compose(now.plan, there), now.notes, {new: old for new, old in ids.items() if new != old})


def drop_blocks(now: Pruned, request: Request, batches: Sequence[Tensor]) -> Pruned:
    """Drop the branches with the least influence; widths do the rest.

    Beside other kinds, blocks give at most half of what is to be removed. Alone, they are dropped until the target is
    met.
    """
    analysis = analyze_axes(now.graph)
    groups = analysis.groups
    influence = branch_influence(now.graph, groups, batches)
    cost, sizes, alone = groups.costs.parameters, groups.sizes(), set(request.kinds) == {"blocks"}
    target, dropped = request.budget.target, list[str]()
    least = target if alone else (target + cost(sizes)) // 2
    for id in sorted(influence, key=lambda id: (influence[id], id)):
        if cost(sizes) <= target:
            break
        if alone or cost({**sizes, id: 0}) >= least:
            sizes[id] = 0
            dropped.append(id)
    if alone and cost(sizes) > target:
        raise BudgetError(f"dropping every block leaves {cost(sizes):,} parameters, above the target of {target:,}")
    note = f"dropped {len(dropped)} of {len(groups.branches)} residual branches: {', '.join(dropped) or 'none'}"
    return replace(advance(now, Plan({}, tuple(dropped), request.statistics), analysis), notes=(note,))
