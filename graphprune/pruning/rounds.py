"""Pruning: score, allocate within the budget, plan, rewrite, compensate - once, or in rounds that are scored anew."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import BLOCKS, Branch, Group, Groups
from graphprune.budget.budgets import Budget, cost_of, reachable_minimum
from graphprune.data.stream.watched import Watched
from graphprune.edits.editing import edited
from graphprune.errors import BudgetError
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Lineage, chain
from graphprune.ir.placement import place
from graphprune.ir.plan import Edit, Plan, Statistics
from graphprune.pruning.blocks import describe_dropped
from graphprune.pruning.candidates import Choice, choose_candidates, free_blocks, out_of_reach, reached
from graphprune.pruning.interfaces import Allocation, Compensation, Importance, Scene, view
from graphprune.pruning.kept_scores import kept_scores
from graphprune.pruning.selection import select
from graphprune.pruning.sparsity.bound_units import bind_units, pool_scores
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import Batch
from graphprune.running.loss import Loss
from graphprune.runtimes.limits import held, require_held
from graphprune.runtimes.runtime import Runtime
from graphprune.suggestions import AUTO

Report = Callable[[str, int, int], None]


def silent(_label: str, _done: int, _total: int) -> None:
    """The report that nobody reads."""


@dataclass(frozen=True)
class Request:
    """What to prune to and how. `budget.target` is what the result may cost; `floor` None means the default of `auto`.

    `final` is the size that the kinds are chosen for, where this pruning is one of several stages on the way to it.
    `runtime` is what the widths must fit beside the budget.
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
    scope: str | None = None
    protect: tuple[float, float] = (0, 0)
    runtime: Runtime | None = None

    @property
    def needs_data(self) -> bool:
        """Whether any part of the method looks at text."""
        parts = (self.importance, self.allocation, self.compensation)
        return not BLOCKS.isdisjoint(self.kinds) or any(part is not None and part.needs_data for part in parts)


@dataclass(frozen=True, eq=False)
class Pruned:
    """The smaller graph, the plan that makes its shape from the source in one go, and notes for the user."""

    graph: Graph
    plan: Plan
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a pruning works with beside the graph and its text: the loss, and the outside.

    `folder` is what goes on after a kill, `cache` what others use as well, `room` the bytes that the run may take.
    `source` is the model before all pruning, whose widths floors are shares of; None for the graph itself.
    """

    loss: Loss | None = None
    source: Graph | None = None
    seed: int = 0
    report: Report = silent
    folder: Path | None = None
    cache: Path | None = None
    room: int | None = None


def prune(graph: Graph, request: Request, batches: Sequence[Batch] = (), around: Surroundings | None = None) -> Pruned:
    """Prune a graph to the budget; the input graph stays as it is.

    With several steps the target falls linearly, and each round scores the model that the last one left; compensation
    aims at the outputs of the graph that was given. Groups keep their share of the width that they have in the source
    at least. Raises BudgetError where the target is out of reach.
    """
    around = around or Surroundings()
    report, each = around.report, max(1, len(batches))
    start, total = replace(graph, lineage=Lineage()), cost_now(graph, request.budget)
    current = prepare(start, request, batches)
    source = edited_source(around.source, (*graph.lineage.plan.edits, *current.lineage.plan.edits))
    cuts, widths = int(current is not start), source_widths(replace(current, lineage=graph.lineage), source)
    choice = final_choice(current, request, source, widths, graph.lineage)
    told: list[str] = []
    for step in range(1, request.steps + 1):
        report("pruning", (step - 1) * each, request.steps * each)
        goal = total - (total - request.budget.target) * step // request.steps
        if cost_now(current, request.budget) > goal:
            seen = watched(batches, step, request.steps, report)
            scene = look(current, choice, goal, request, around, seen, Known(widths, graph.lineage))
            scene = replace(scene, note=told.append)
            current = prune_once(scene, request, around)
            current = compensate(start, current, request, replace(scene, batches=batches), report)
            cuts += 1
    report("pruning", request.steps * each, request.steps * each)
    if request.compensation is None and cuts > 1:
        # In one go from the source: what is shipped is what the saved plan gives, to the last bit.
        current = replace(apply(start, current.lineage.plan), memo=current.memo)
    notes = (*choice.notes, *dict.fromkeys(told))
    if not BLOCKS.isdisjoint(request.kinds):
        notes = (*describe_dropped(current.lineage.plan.dropped, analyze(start)), *notes)
    lineage = chain(graph.lineage, current.lineage)
    result = graph if current is start else replace(current, lineage=lineage)
    if around.source is not None and graph.lineage.plan.keep and result.lineage.plan.statistics == "exact":
        result = in_one_go(around.source, result)
    return Pruned(result, lineage.plan, notes)


def in_one_go(source: Graph, result: Graph) -> Graph:
    """The result with the operators that its plan makes of the source; cuts in a row scale statistics one by one."""
    made = apply(replace(source, companions={}), result.lineage.plan)
    return replace(result, module=made.with_tensors(result.tensors()).module)


def watched(batches: Sequence[Batch], step: int, steps: int, report: Report) -> Sequence[Batch]:
    """The batches, each of which is told of when a round takes it."""
    each = len(batches)
    return Watched(batches, lambda done: report("pruning", (step - 1) * each + done, steps * each))


def cost_now(graph: Graph, budget: Budget) -> int:
    """What the graph costs at its present widths, in units of the budget."""
    groups = analyze(graph)
    return cost_of(groups, budget)(groups.sizes())


def prepare(graph: Graph, request: Request, batches: Sequence[Batch] = ()) -> Graph:
    """The graph with the edits that the compensation needs; as it is where nothing has to go."""
    if request.compensation is None or cost_now(graph, request.budget) <= request.budget.target:
        return graph
    edits = request.compensation.edits(view(graph, None, batches, budget=request.budget))
    return apply(graph, Plan(edits=edits, statistics=request.statistics)) if edits else graph


def edited_source(source: Graph | None, edits: Sequence[Edit]) -> Graph | None:
    """The source with these edits, for its widths alone: it has no weights."""
    return edited(place(source, torch.device("meta")), edits) if source is not None and edits else source


def source_widths(graph: Graph, source: Graph | None) -> Mapping[str, int]:
    """The units that every group of the graph had in the source, by its id in the graph."""
    groups = analyze(graph).groups
    there = {g.id: g.units for g in analyze(source).groups} if source is not None else {}
    return {g.id: there.get(graph.lineage.root(g.id), g.units) for g in groups}


def final_choice(
    now: Graph, request: Request, source: Graph | None, widths: Mapping[str, int], before: Lineage | None = None
) -> Choice:
    """The kinds that the final target needs, decided once, so that every round cuts the same kinds.

    The ids are those at the start of this pruning, `before` says which of them had others in the source.
    """
    groups, root = bind_units(now, analyze(now)), now.lineage.root
    origin = (before or Lineage()).root
    final = replace(request.budget, target=request.final or request.budget.target)
    there = analyze(source) if source is not None else groups
    beyond = out_of_reach(there, request.scope, request.protect)
    if request.runtime is not None:
        beyond = {**held(there, request.runtime), **beyond}
    if request.compensation is not None:
        beyond = {**request.compensation.spared(source or now), **beyond}
    whole = source is not None and BLOCKS.isdisjoint(request.kinds)
    here = {each.id: beyond[origin(root(each.id))] for each in members(groups) if origin(root(each.id)) in beyond}
    chosen = choose_candidates(
        there if whole else groups, request.kinds, final, request.floor, beyond if whole else here
    )
    # By what they were in the source: with one key head left, the axis of its queries looks like another kind.
    known = {group.id for group in chosen.candidates}
    units = [g for g in reached(groups, here).prunable() if (origin(root(g.id)) if whole else g.id) in known]
    cut = (*units, *free_blocks(groups, request.kinds, here))
    if request.runtime is not None:
        require_held(groups, cut, request.runtime)
    least = {g.id: min(g.units, math.ceil(chosen.budget.floor * widths[root(g.id)])) for g in cut if g.slots}
    check_target(groups, replace(chosen, candidates=cut), least, request, cost_now(now, request.budget))
    start = tuple(replace(g, id=root(g.id)) for g in cut)
    return replace(chosen, candidates=start, budget=replace(chosen.budget, target=request.budget.target))


def members(groups: Groups) -> tuple[Group | Branch, ...]:
    """All that a plan can name."""
    return (*groups.groups, *groups.branches)


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


class Known(NamedTuple):
    """What is known of the source: the units that every group had there, and what was cut before this pruning."""

    widths: Mapping[str, int]
    before: Lineage


def look(
    now: Graph,
    choice: Choice,
    goal: int,
    request: Request,
    around: Surroundings,
    batches: Sequence[Batch],
    known: Known,
) -> Scene:
    """The scene of one round: the present model, what may still be cut, and what it may cost."""
    groups, chosen, root = bind_units(now, analyze(now)), {group.id for group in choice.candidates}, now.lineage.root
    blocks = free_blocks(groups, request.kinds, {})
    candidates = tuple(g for g in (*groups.prunable(), *blocks) if root(g.id) in chosen)
    full = {g.id: known.widths[root(g.id)] for g in candidates if g.slots}
    # Floors are shares of the source's width, not of what the last round left.
    least = {id: math.ceil(choice.budget.floor * units - 1e-9) for id, units in full.items()}
    within = {kind: now_share(share, kind, candidates, full) for kind, share in choice.budget.within.items()}
    return Scene(
        graph=now,
        groups=groups,
        candidates=candidates,
        budget=replace(choice.budget, target=goal, floor=0.0, least=least, within=within),
        batches=batches,
        loss=around.loss,
        widths=full,
        ids={g.id: known.before.root(root(g.id)) for g in candidates},
        memo=now.memo.get(request.allocation.name, {}),
        repair=request.compensation,
        seed=around.seed,
        progress=functools.partial(around.report, f"choosing ({request.allocation.name})"),
        folder=around.folder,
        room=around.room,
    )


def now_share(share: float, kind: str, candidates: Sequence[Group], full: Mapping[str, int]) -> float:
    """A share of the source's units of a kind as one of those that are left."""
    mine = [group for group in candidates if group.kind == kind]
    left = sum(group.units for group in mine)
    return min(1.0, share * sum(full.get(group.id, group.units) for group in mine) / left) if left else 0.0


def prune_once(scene: Scene, request: Request, around: Surroundings) -> Graph:
    """One round: score the present model, choose, cut."""
    now = scene.graph
    scene = replace(scene, parts=score_parts(scene, request, around.cache))
    heard = replace(scene, progress=functools.partial(around.report, f"scoring ({request.importance.name})"))
    scores = kept_scores(around.cache, request.importance, scene, functools.partial(score, request.importance, heard))
    scores = pool_scores(now, scene.candidates, scores)
    allotment = request.allocation.keep(scene, scores)
    plan = replace(select(scene.groups, allotment.counts, scores), statistics=request.statistics)
    cut = apply(now, plan)
    if "importance" not in cut.memo:  # of the dense model, for the report
        units = {g.id: scores[g.id] for g in scene.candidates if g.slots}
        cut = cut.remember("importance", {now.lineage.root(id): summarise(each) for id, each in units.items()})
    return cut.remember(request.allocation.name, allotment.memo) if allotment.memo else cut


def score_parts(scene: Scene, request: Request, cache: Path | None = None) -> Mapping[str, Tensor]:
    """The scores of units on parts of the text, where the allocation compares them."""
    importance, count = request.importance, request.allocation.compared_parts
    units = tuple(g for g in scene.candidates if g.kind not in BLOCKS)
    if not count or not units:
        return {}
    seen = replace(scene, candidates=units)
    return kept_scores(cache, importance, seen, functools.partial(importance.score_parts, seen, count), count)


def score(importance: Importance, scene: Scene) -> dict[str, Tensor]:
    """The scores of all candidates, blocks among them; the mean over parts where they are that and are there."""
    blocks = tuple(g for g in scene.candidates if g.kind in BLOCKS)
    units = tuple(g for g in scene.candidates if g.kind not in BLOCKS)
    count = importance.averaged_parts
    if count and units and all(len(scene.parts.get(g.id, ())) == count for g in units):
        found = {g.id: scene.parts[g.id].double().mean(0).float() for g in units}
    else:
        found = importance.score(replace(scene, candidates=units)) if units else {}
    return found | (importance.score_blocks(replace(scene, candidates=blocks)) if blocks else {})


def summarise(scores: Tensor, bins: int = 48) -> list[float]:
    """Scores in the order of the units, as means of at most so many neighbours, to four digits."""
    parts = scores.detach().double().cpu().tensor_split(min(bins, len(scores)))
    return [float(f"{part.mean():.4g}") for part in parts]


def compensate(start: Graph, current: Graph, request: Request, scene: Scene, report: Report) -> Graph:
    """The cut graph with its weights adapted, where the method has a compensation."""
    if request.compensation is None:
        return current
    told = functools.partial(report, f"compensating ({request.compensation.name})")
    return request.compensation.compensate(start, current, replace(scene, progress=told))
