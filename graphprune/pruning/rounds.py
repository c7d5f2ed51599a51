"""Pruning: score, allocate within the budget, plan, rewrite, compensate - once, or in rounds that are scored anew."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from graphprune.analysis.analyse import analyze, analyze_axes
from graphprune.analysis.groups import Groups
from graphprune.budget.budgets import Budget, cost_of, reachable_minimum
from graphprune.data.stream.watched import Watched
from graphprune.errors import BudgetError
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Lineage, chain
from graphprune.ir.plan import Plan, Statistics
from graphprune.pruning.candidates import Choice, choose_candidates
from graphprune.pruning.interfaces import Allocation, Compensation, Importance, Round
from graphprune.pruning.selection import select
from graphprune.pruning.stream_change import branch_influence
from graphprune.rewriting.apply import apply
from graphprune.suggestions import AUTO

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What to prune to and how. `budget.target` is what the result may cost; `floor` None means the default of `auto`.

    `final` is the size that the kinds are chosen for, where this pruning is one of several stages on the way to it.
    """

    budget: Budget
    importance: Importance
    allocation: Allocation
    kinds: tuple[str, ...] = (AUTO,)
    steps: int = 1
    floor: float | None = None
    statistics: Statistics = "survivors"
    compensation: Compensation | None = None
    final: int | None = None

    @property
    def needs_data(self) -> bool:
        """Whether any part of the method looks at text."""
        parts = (self.importance, self.allocation, self.compensation)
        return "blocks" in self.kinds or any(part is not None and part.needs_data for part in parts)


@dataclass(frozen=True, eq=False)
class Pruned:
    """The smaller graph, the plan that makes its shape from the source in one go, and notes for the user."""

    graph: Graph
    plan: Plan
    notes: tuple[str, ...] = ()


def prune(
    graph: Graph,
    request: Request,
    batches: Sequence[Tensor],
    report: Report = lambda *_: None,
    source: Graph | None = None,
) -> Pruned:
    """Prune a graph to the budget; the input graph stays as it is.

    With several steps the target falls linearly, and each round scores the model that the last one left; compensation
    aims at the outputs of the graph that was given. Groups keep their share of the width that they have in `source`
    (default: `graph`) at least. Raises BudgetError where the target is out of reach.
    """
    start, total, notes = replace(graph, lineage=Lineage()), cost_now(graph, request.budget), tuple[str, ...]()
    current = start
    if "blocks" in request.kinds:
        report("measuring blocks", 0, len(batches))
        told = Watched(batches, lambda done: report("measuring blocks", done, len(batches)))
        current, notes = drop_blocks(current, request, told)
    current = prepare(current, request)
    cuts = int(current is not start)
    widths = source_widths(graph, source)
    choice = final_choice(current, request, source, widths)
    each = max(1, len(batches))
    for step in range(1, request.steps + 1):
        seen = watch(batches, step, request.steps, report)
        report("pruning", (step - 1) * each, request.steps * each)
        goal = total - (total - request.budget.target) * step // request.steps
        if cost_now(current, request.budget) > goal:
            current = prune_once(current, choice, goal, request, seen, widths)
            current = compensate(start, current, request, batches, report)
            cuts += 1
    report("pruning", request.steps * each, request.steps * each)
    if request.compensation is None and cuts > 1:
        # In one go from the source: what is shipped is what the saved plan gives, to the last bit.
        current = replace(apply(start, current.lineage.plan), memo=current.memo)
    lineage = chain(graph.lineage, current.lineage)
    result = graph if current is start else replace(current, lineage=lineage)
    return Pruned(result, lineage.plan, (*notes, *choice.notes))


def watch(batches: Sequence[Tensor], step: int, steps: int, report: Report) -> Sequence[Tensor]:
    """The batches, each of which is told of when a round takes it."""
    each = len(batches)
    return Watched(batches, lambda done: report("pruning", (step - 1) * each + done, steps * each))


def cost_now(graph: Graph, budget: Budget) -> int:
    """What the graph costs at its present widths, in units of the budget."""
    groups = analyze(graph)
    return cost_of(groups, budget)(groups.sizes())


def prepare(graph: Graph, request: Request) -> Graph:
    """The graph with the biases that the compensation will fill."""
    if request.compensation is None:
        return graph
    biases = request.compensation.biases(graph, analyze(graph).prunable())
    return apply(graph, Plan(biases=biases, statistics=request.statistics)) if biases else graph


def source_widths(graph: Graph, source: Graph | None) -> Mapping[str, int]:
    """The units that every group of the graph had in the source, by its id in the graph."""
    groups = analyze(graph).groups
    there = {g.id: g.units for g in analyze(source).groups} if source is not None else {}
    return {g.id: there.get(graph.lineage.root(g.id), g.units) for g in groups}


def final_choice(now: Graph, request: Request, source: Graph | None, widths: Mapping[str, int]) -> Choice:
    """The kinds that the final target needs, decided once, so that every round cuts the same kinds.

    The ids are those at the start of this pruning.
    """
    groups = analyze(now)
    final = replace(request.budget, target=request.final or request.budget.target)
    whole = source is not None and "blocks" not in request.kinds
    chosen = choose_candidates(analyze(source) if whole and source else groups, request.kinds, final, request.floor)
    kinds = {group.kind for group in chosen.candidates}
    candidates = groups.prunable(frozenset(kinds))
    least = {g.id: min(g.units, math.ceil(chosen.budget.floor * widths[now.lineage.root(g.id)])) for g in candidates}
    check_target(groups, replace(chosen, candidates=candidates), least, request, cost_now(now, request.budget))
    start = tuple(replace(g, id=now.lineage.root(g.id)) for g in candidates)
    return replace(chosen, candidates=start, budget=replace(chosen.budget, target=request.budget.target))


def check_target(groups: Groups, choice: Choice, least: Mapping[str, int], request: Request, size: int) -> None:
    """Raise BudgetError, with the least that is possible, for a target below it."""
    target = request.budget.target
    minimum = reachable_minimum(groups, choice.candidates, replace(choice.budget, floor=0.0, least=least))
    if size > target and minimum > target:
        raise BudgetError(
            f"the target of {request.budget.quantity.show(target)} is out of reach: the least is "
            f"{request.budget.quantity.show(minimum)} with --prune {','.join(request.kinds)}; prune more kinds, lower "
            "--floor or --min-units, or raise the target"
        )


def prune_once(
    now: Graph, choice: Choice, goal: int, request: Request, batches: Sequence[Tensor], widths: Mapping[str, int]
) -> Graph:
    """One round: score the present model, choose, cut."""
    analysis, chosen = analyze_axes(now), {group.id for group in choice.candidates}
    root, share = now.lineage.root, choice.budget.floor
    candidates = tuple(g for g in analysis.groups.prunable() if root(g.id) in chosen)
    # Floors are shares of the source's width, not of what the last round left.
    least = {g.id: math.ceil(share * widths[root(g.id)] - 1e-9) for g in candidates}
    budget = replace(choice.budget, target=goal, floor=0.0, least=least)
    scores = request.importance.score(now, candidates, batches)
    full = {g.id: widths[root(g.id)] for g in candidates}
    memo = now.memo.get(request.allocation.name, {})
    allotment = request.allocation.keep(
        Round(now, analysis.groups, candidates, scores, budget, batches, None, full, memo)
    )
    plan = replace(select(analysis.groups, allotment.counts, scores), statistics=request.statistics)
    cut = apply(now, plan, analysis)
    if "importance" not in cut.memo:  # of the dense model, for the report
        cut = cut.remember("importance", {root(id): summarise(each) for id, each in scores.items()})
    return cut.remember(request.allocation.name, allotment.memo) if allotment.memo else cut


def summarise(scores: Tensor, bins: int = 48) -> list[float]:
    """Scores in the order of the units, as means of at most so many neighbours, to four digits."""
    parts = scores.detach().double().cpu().tensor_split(min(bins, len(scores)))
    return [float(f"{part.mean():.4g}") for part in parts]


def compensate(start: Graph, current: Graph, request: Request, batches: Sequence[Tensor], report: Report) -> Graph:
    """The cut graph with its weights adapted, where the method has a compensation."""
    if request.compensation is None:
        return current
    label = f"compensating ({request.compensation.name})"
    return request.compensation.compensate(start, current, batches, lambda done, all: report(label, done, all))


def drop_blocks(now: Graph, request: Request, batches: Sequence[Tensor]) -> tuple[Graph, tuple[str, ...]]:
    """Drop the branches with the least influence; widths do the rest.

    Beside other kinds, blocks give at most half of what is to be removed. Alone, they are dropped until the target is
    met.
    """
    analysis = analyze_axes(now)
    groups = analysis.groups
    influence = branch_influence(now, groups, batches)
    cost, sizes, alone = cost_of(groups, request.budget), groups.sizes(), set(request.kinds) == {"blocks"}
    target, dropped, show = request.budget.target, list[str](), request.budget.quantity.show
    least = target if alone else (target + cost(sizes)) // 2
    for id in sorted(influence, key=lambda id: (influence[id], id)):
        if cost(sizes) <= target:
            break
        if alone or cost({**sizes, id: 0}) >= least:
            sizes[id] = 0
            dropped.append(id)
    if alone and cost(sizes) > target:
        raise BudgetError(f"dropping every block leaves {show(cost(sizes))}, above the target of {show(target)}")
    note = f"dropped {len(dropped)} of {len(groups.branches)} residual branches: {', '.join(dropped) or 'none'}"
    return apply(now, Plan({}, tuple(dropped), request.statistics), analysis), (note,)
