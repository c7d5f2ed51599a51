"""The dry run: widths and sizes from the configuration alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from graphprune.analysis import analyze
from graphprune.errors import UsageError
from graphprune.groups import Group, Groups
from graphprune.ir import Graph
from graphprune.loss import Batch, Loss
from graphprune.measure import cost_measures
from graphprune.options import CompileOptions, Measure, Progress, Result
from graphprune.plugins import Importance
from graphprune.pruning import Request, prune
from graphprune.report import list_widths
from graphprune.request import read_budget
from graphprune.source import capture
from graphprune.spec import parse_spec


def dry_run(options: CompileOptions, request: Request, progress: Progress) -> Result:
    """Plan widths from the configuration alone; scores are equal, so shares are uniform unless text were read."""
    progress("reading the configuration", 0, 0)
    graph = capture(options.model, weights=False, trust_remote_code=options.trust_remote_code)
    groups = analyze(graph)
    request = replace(request, budget=read_budget(options, graph, groups), importance=Equal(), steps=1)
    if "blocks" in options.prune:
        raise UsageError("--dry-run cannot choose blocks, which are measured on text; leave blocks out or run it")
    request = replace(request, allocation=parse_spec("allocation", "uniform"))
    pruned = prune(graph, request, (), progress)
    after = analyze(pruned.graph)
    notes = (*pruned.notes, "a dry run shares the cut out evenly; scores of real weights decide where it falls")
    measures = (*cost_measures(groups, after), *weight_measure(groups, after))
    return Result(None, measures, list_widths(groups, pruned.plan), pruned.plan.dropped, (), notes)


def weight_measure(before: Groups, after: Groups) -> tuple[Measure, ...]:
    sizes = before.costs.weight_bytes(before.sizes()), after.costs.weight_bytes(after.sizes())
    return (Measure("weights", float(sizes[0]), float(sizes[1]), "bytes"),)


@final
@dataclass(frozen=True)
class Equal(Importance):
    """No unit is better than another: the scores of a model without weights."""

    name: ClassVar[str] = "equal"
    needs_data: ClassVar[bool] = False

    def score(
        self, graph: Graph, groups: Sequence[Group], batches: Sequence[Batch] = (), loss: Loss | None = None
    ) -> dict[str, Tensor]:
        return {group.id: torch.ones(group.units) for group in groups}
