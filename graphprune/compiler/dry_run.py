"""The dry run: widths and sizes from the configuration alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import BLOCKS, Groups
from graphprune.budget.backend import Backend
from graphprune.budget.targets import file_quantities, resolve_target
from graphprune.compiler.goal import Aim
from graphprune.compiler.request import foresee, require_part
from graphprune.compiler.vocabulary_start import cuts_vocabulary, shorten_evenly
from graphprune.edits.editing import edited_groups
from graphprune.errors import UsageError
from graphprune.evaluation.measure import Measure
from graphprune.evaluation.measures import cost_measures
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Edit
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import Recipe
from graphprune.pipeline.stages import expand, foreseen, last_request
from graphprune.progress import Progress
from graphprune.pruning.interfaces import Compensation, Importance, Scene
from graphprune.pruning.rounds import Pruned, Request, Surroundings, prune
from graphprune.pruning.stock_widths import allowed_counts
from graphprune.reporting.report import list_widths
from graphprune.reporting.results import Result
from graphprune.spec import parse_spec
from graphprune.suggestions import AUTO


def dry_run(options: CompileOptions, recipe: Recipe, backends: Sequence[Backend], progress: Progress) -> Result:
    """Plan widths from the configuration alone; scores are equal, so shares are uniform unless text were read."""
    kind = next((kind for kind in recipe.prune.kinds if kind in BLOCKS), None)
    if kind is not None:
        raise UsageError(f"--dry-run cannot choose {kind}, which are measured on text; leave {kind} out or run it")
    if options.target_speed is not None or options.round_to == AUTO:
        raise UsageError(
            "--dry-run measures nothing; give another target than --target-speed, and a number to round to"
        )
    progress("reading the configuration", 0, 0)
    # In float32, as compile computes: the cache is counted in it.
    trusted = options.trust_remote_code
    foresee(options.model, options.part, trusted)
    graph = capture(options.model, weights=False, trust_remote_code=trusted, dtype=torch.float32)
    require_part(graph, options.part)
    for backend in backends:
        backend.require_source(graph)
    groups = analyze(graph)
    allowed = allowed_counts(graph, groups) if recipe.prune.equal_layers else {}
    target = resolve_target(*options.target, graph, file_quantities(graph, backends))
    aim, start = Aim(target, recipe), graph
    if cuts_vocabulary(options, recipe):
        start, aim = shorten_evenly(options, aim, graph)
    passes = expand(aim.recipe, aim.target)
    start = foreseen(start, passes)
    pruned = Pruned(start, start.lineage.plan)
    request = last_request(passes, start)
    if request is not None:
        request = replace(request, kinds=aim.recipe.prune.kinds)  # whatever order they are cut in
        pruned = prune(start, evenly(request, allowed), (), Surroundings(report=progress))
    after = analyze(pruned.graph)
    notes = (*pruned.notes, "a dry run shares the cut out evenly; scores of real weights decide where it falls")
    measures = (*cost_measures(groups, after), *weight_measure(groups, after, graph.source.dtype))
    return Result(
        None, measures, list_widths(edited_groups(graph, pruned.plan), pruned.plan), pruned.plan.dropped, (), notes
    )


def evenly(request: Request, allowed: Mapping[str, frozenset[int]]) -> Request:
    """The request with a method that needs no weights: one step to the target, evenly shared."""
    budget = replace(request.budget, allowed=allowed)
    uniform = parse_spec("allocation", "uniform")
    repair = None if request.compensation is None else Uncompensated(request.compensation)
    return replace(
        request, budget=budget, importance=Equal(), allocation=uniform, steps=1, compensation=repair, final=None
    )


def weight_measure(before: Groups, after: Groups, dtype: torch.dtype | None) -> tuple[Measure, ...]:
    """Bytes of the parameters in the type that they are stored in."""
    size = (dtype or torch.float32).itemsize
    counts = [groups.costs.parameters(groups.sizes()) for groups in (before, after)]
    return (Measure("weights", float(size * counts[0]), float(size * counts[1]), "bytes"),)


@final
@dataclass(frozen=True)
class Equal(Importance):
    """No unit is better than another: the scores of a model without weights."""

    name: ClassVar[str] = "equal"
    needs_data: ClassVar[bool] = False

    def score(self, scene: Scene) -> dict[str, Tensor]:
        return {group.id: torch.ones(group.units) for group in scene.candidates}


@final
@dataclass(frozen=True)
class Uncompensated(Compensation):
    """The edits of a compensation, which cost what they cost, without what it puts into them."""

    name: ClassVar[str] = "uncompensated"
    of: Compensation

    def edits(self, scene: Scene) -> tuple[Edit, ...]:
        return self.of.edits(scene)

    def spared(self, graph: Graph) -> Mapping[str, str]:
        return self.of.spared(graph)

    def compensate(self, dense: Graph, cut: Graph, scene: Scene) -> Graph:
        return cut
