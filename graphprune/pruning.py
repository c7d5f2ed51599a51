"""Pruning: score, allocate within the budget, plan, rewrite - once, or in rounds that are each scored anew."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from graphprune.analysis import Analysis, analyze_axes
from graphprune.budget import Budget, reachable_minimum
from graphprune.candidates import Choice, choose_candidates
from graphprune.composition import compose
from graphprune.errors import BudgetError
from graphprune.groups import Groups
from graphprune.influence import branch_influence
from graphprune.ir import Graph
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
    """The smaller graph, the plan that makes it from the source in one go, and notes for the user."""

    graph: Graph
    plan: Plan
    notes: tuple[str, ...] = field(default=())


def prune(graph: Graph, request: Request, batches: Sequence[Tensor], report: Report = lambda *_: None) -> Pruned:
    """Prune a graph to the budget; the input graph stays as it is.

    With several steps the target falls linearly, and each round scores the model that the last one left. Groups keep
    their share of the source's width at least. Raises BudgetError where the target is out of reach.
    """
    analysis = analyze_axes(graph)
    current, total = Pruned(graph, Plan(statistics=request.statistics)), graph.parameter_count()
    if "blocks" in request.kinds:
        report("measuring blocks", 0, 0)
        current = drop_blocks(current, analysis.groups, request, batches)
    choice = final_choice(current.graph, request)
    for step in range(1, request.steps + 1):
        report("pruning", step - 1, request.steps)
        goal = total - (total - request.budget.target) * step // request.steps
        if current.graph.parameter_count() > goal:
            current = prune_once(current, choice, goal, request, batches)
    report("pruning", request.steps, request.steps)
    return replace(current, notes=(*current.notes, *choice.notes))


def final_choice(graph: Graph, request: Request) -> Choice:
    """The kinds that the final target needs, decided once, so that every round cuts the same kinds."""
    groups = analyze_axes(graph).groups
    choice = choose_candidates(groups, request.kinds, request.budget, request.floor)
    minimum = reachable_minimum(groups, choice.candidates, choice.budget)
    if graph.parameter_count() > request.budget.target and minimum > request.budget.target:
        raise BudgetError(
            f"the target of {request.budget.target:,} parameters is out of reach: the least is {minimum:,} with "
            f"--prune {','.join(request.kinds)}; prune more kinds, lower --floor or --min-units, or raise the target"
        )
    return choice


def prune_once(now: Pruned, choice: Choice, goal: int, request: Request, batches: Sequence[Tensor]) -> Pruned:
    """One round: score the present model, choose, cut."""
    analysis = analyze_axes(now.graph)
    kept = {group.id for group in choice.candidates}
    candidates = tuple(g for g in analysis.groups.groups if g.id in kept and g.units > 1)
    # Floors are shares of the source's width, not of what the last round left.
    least = {g.id: math.ceil(choice.budget.floor * g.units - 1e-9) for g in choice.candidates}
    budget = replace(choice.budget, target=goal, floor=0.0, least=least)
    scores = request.importance.score(now.graph, candidates, batches)
    counts = request.allocation.keep(analysis.groups, candidates, scores, budget)
    plan = replace(select(analysis.groups, counts, scores), statistics=request.statistics)
    return advance(now, plan, analysis)


def advance(now: Pruned, plan: Plan, analysis: Analysis) -> Pruned:
    return Pruned(apply(now.graph, plan, analysis), compose(now.plan, plan), now.notes)


def drop_blocks(now: Pruned, groups: Groups, request: Request, batches: Sequence[Tensor]) -> Pruned:
    """Drop the branches with the least influence as long as the rest stays above the target.

    Where nothing else may be cut, the last one dropped is the one that brings the model to the target.
    """
    influence = branch_influence(now.graph, groups, batches)
    sizes, dropped, alone = groups.sizes(), list[str](), set(request.kinds) == {"blocks"}
    for id in sorted(influence, key=lambda id: (influence[id], id)):
        rest = groups.costs.parameters({**sizes, id: 0})
        if groups.costs.parameters(sizes) <= request.budget.target:
            break
        if rest >= request.budget.target or alone:
            sizes[id] = 0
            dropped.append(id)
    if groups.costs.parameters(sizes) > request.budget.target and alone:
        least = groups.costs.parameters(sizes)
        raise BudgetError(
            f"dropping every block leaves {least:,} parameters, above the target of {request.budget.target:,}"
        )
    plan = Plan({}, tuple(dropped), request.statistics)
    note = f"dropped {len(dropped)} of {len(groups.branches)} residual branches"
    return Pruned(apply(now.graph, plan), plan, (note,))
