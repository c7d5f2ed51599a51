"""Stages: the list of passes that a recipe stands for, once the size of the model and the target are known."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Self

import torch

from graphprune.amounts import parse_target
from graphprune.analysis.groups import BLOCKS
from graphprune.budget.quantities import Parameters
from graphprune.budget.targets import Target
from graphprune.edits.editing import edited
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place
from graphprune.pipeline.made_passes import make_pass, make_recover
from graphprune.pipeline.passes import Context, Pass, run_passes
from graphprune.pipeline.recipes import Recipe, read_recipe, split_kinds
from graphprune.pipeline.token_shares import split_whole, stage_shares
from graphprune.pruning.options import Pruning
from graphprune.pruning.rounds import Request, final_choice, prepare, source_widths
from graphprune.spec import parse_spec


class PrunePass(Pass):
    """A pass that cuts a graph down to a target: what the pass `prune` is to the stages."""

    @abstractmethod
    def towards(self, target: Target, final: Target | None, options: Pruning) -> Self:
        """This pass for a target that is known; `final` is that of the last of several prunings."""

    @abstractmethod
    def request(self, source: Graph) -> Request:
        """What the pass asks for, resolved for a source model."""


def expand(recipe: Recipe, target: Target) -> tuple[Pass, ...]:
    """The passes that take the source to the target: prune, recover, prune, recover.

    The cost falls linearly over the stages: P_i = P_0 - (P_0 - P_T) i / N. Without kinds nothing is pruned; with an
    order, the first half of the cuts takes other kinds than the second. Weights are made sparse behind the last cut.
    Source: Adapt-Accel of Adapt-Pruner, arXiv 2502.03460.
    """
    stages = range(1, recipe.stages + 1)
    cost, whole = target.source, target.source - target.most
    targets = [cost - whole * stage // recipe.stages for stage in stages if recipe.prune.kinds]
    pattern = cutting(recipe)
    final = target if recipe.stages > 1 and recipe.order == "together" else None
    cuts = [
        pattern.towards(replace(target, most=each), final, replace(recipe.prune, kinds=kinds))
        for each, kinds in zip(targets, stage_kinds(recipe), strict=False)
    ]
    turns = [item for item in chain.from_iterable(zip_longest(cuts, recoveries(recipe))) if item is not None]
    if recipe.sparsify is not None:
        turns.insert(turns.index(cuts[-1]) + 1 if cuts else 0, make_pass("sparsify", recipe.sparsify))
    ends = [[parse_spec("passes", spec) for spec in specs] for specs in (recipe.before, recipe.after)]
    return (*ends[0], *turns, *ends[1])


def cutting(recipe: Recipe) -> PrunePass:
    """The pass that cuts, before its target is known. Raises UsageError for one that takes no target."""
    made: Pass = parse_spec("passes", recipe.cut)
    if not isinstance(made, PrunePass):
        raise UsageError(f"cut: {recipe.cut[:40]} takes no target, so it cannot stand in the place of prune")
    return made


def stage_kinds(recipe: Recipe) -> list[tuple[str, ...]]:
    """What each stage cuts: the same, or first units and then blocks, or the other way round."""
    parts = split_kinds(recipe.prune.kinds)
    if recipe.order == "together" or len(parts) < 2:
        return [recipe.prune.kinds] * recipe.stages
    first, second = parts if recipe.order == "width-first" else parts[::-1]
    half = (recipe.stages + 1) // 2
    return [first] * half + [second] * (recipe.stages - half)


def recoveries(recipe: Recipe) -> list[Pass]:
    """One training a stage with its share of the tokens; the total makes them parts of one learning-rate schedule."""
    if recipe.recover is None:
        return []
    if recipe.stages == 1:
        return [make_recover(recipe.recover)]
    whole: int = make_recover(recipe.recover).tokens
    shares = split_whole(whole, stage_shares(recipe.stages, recipe.token_shares))
    return [
        make_recover({**recipe.recover, "tokens": share, "total_tokens": whole, "stage": stage})
        for stage, share in enumerate(shares, 1)
    ]


def last_request(passes: Sequence[Pass], source: Graph) -> Request | None:
    """What the last pruning of the passes is asked for, None where nothing is pruned."""
    cuts = [item for item in passes if isinstance(item, PrunePass)]
    return cuts[-1].request(source) if cuts else None


def first_kinds(passes: Sequence[Pass], source: Graph) -> Request | None:
    """What the last of those prunings is asked for that cut the same kinds as the first."""
    cuts = [item.request(source) for item in passes if isinstance(item, PrunePass)]
    return next((each for each in reversed(cuts) if each.kinds == cuts[0].kinds), None)


def check_target(source: Graph, passes: Sequence[Pass]) -> None:
    """Raise BudgetError, with the least that is possible, before anything is done on the way to the target.

    Where other kinds are cut later, as far as the first of them are to go.
    """
    source = foreseen(source, passes)
    request = first_kinds(passes, source)
    if request is not None:
        start = source if request.compensation is None else prepare(place(source, torch.device("meta")), request)
        final_choice(start, request, None, source_widths(start, None))


def foreseen(graph: Graph, passes: Sequence[Pass], seed: int = 0) -> Graph:
    """The graph with the edits that the passes will make by themselves, without weights; as it is where there are
    none."""
    edits = tuple(edit for item in passes for edit in item.edits(graph, seed))
    return edited(place(graph, torch.device("meta")), edits) if edits else graph


def needs_text(recipe: Recipe) -> bool:
    """Whether any part of the method looks at text."""
    prune = recipe.prune
    parts = [parse_spec("importance", prune.importance), parse_spec("allocation", prune.allocation)]
    parts += [parse_spec("compensation", prune.compensation)] if prune.compensation else []
    trained = recipe.recover is not None or recipe.learns
    outside = trained or recipe.before or recipe.after or not BLOCKS.isdisjoint(prune.kinds)
    scored = recipe.cuts_units and any(part.needs_data for part in parts)
    return bool(outside or scored or recipe.solves_patterns)


def run_recipe(graph: Graph, recipe: Recipe | str | Path, target: str, context: Context | None = None) -> Graph:
    """Run a recipe, given as such, by name or by path, on a graph, down to a target such as `60%` or `1B`.

    `context.calibration` are batches of token ids; a recipe that trains also needs `tokenizer` and `data`. With
    `context.folder` a killed run goes on when it is called again. Raises as `run_passes` does.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(str(recipe))
    if "vocabulary" in recipe.prune.kinds:
        raise UsageError("a recipe on a graph cannot cut tokens, since the tokenizer changes too; use compile")
    context = context or Context()
    context = replace(context, source=context.source or graph)
    count = graph.parameter_count()
    return run_passes(graph, expand(recipe, Target(Parameters(), parse_target(target, count), count)), context)
