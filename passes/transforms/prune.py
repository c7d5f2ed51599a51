"""The prune pass: cut a graph to a target with an importance, an allocation and a compensation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

from graphprune.amounts import parse_target
from graphprune.analysis.analyse import analyze
from graphprune.budget.budgets import Budget
from graphprune.budget.quantities import parse_quantity
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place_like
from graphprune.ir.plan import Statistics
from graphprune.pipeline.passes import Context, Pass
from graphprune.pruning.rounds import Pruned, Request, prune
from graphprune.pruning.stock_widths import allowed_counts, has_stock_form, require_stock, without_heads
from graphprune.spec import parse_spec


@final
@dataclass(frozen=True)
class Prune(Pass):
    """Remove the least important units until the model costs `target` (`60%` of the source, `1B`).

    Before `linear(x, w[44, 32])`, after `linear(x, w[27, 32])`: parameters, buffers and the integers that follow them.
    `quantity` is what the target counts, in its own units: `parameters`, `cache`, `file{precision=int4}` or `latency`.
    `final` is the target of the last of several prunings, which the kinds are chosen for. `uniform` gives equal widths
    that a configuration of the source's architecture has. Raises BudgetError, and UsageError where none has them.
    """

    name: ClassVar[str] = "prune"
    target: str = "80%"
    importance: str = "taylor"
    allocation: str = "global"
    compensation: str | None = None
    kinds: tuple[str, ...] = ("auto",)
    steps: int = 1
    statistics: Statistics = "survivors"
    floor: float | None = None
    round_to: int = 1
    min_units: int = 1
    uniform: bool = False
    final: str | None = None
    quantity: str = "parameters"

    def run(self, graph: Graph, context: Context) -> Graph:
        source, here = context.source or graph, context.placed(graph)
        request, batches = self.request(source), context.calibration or ()
        if self.uniform:
            result = prune_to_stock(here, request, batches, context)
        else:
            result = prune(here, request, batches, context.progress, context.source)
        for note in result.notes:
            context.log(note)
        return place_like(result.graph, graph).note(*result.notes)

    def request(self, source: Graph) -> Request:
        """The options resolved for a source model."""
        quantity, groups = parse_quantity(self.quantity), analyze(source)
        count = quantity.cost(groups)(groups.sizes())
        target = parse_target(self.target, count)
        return Request(
            Budget(target, self.min_units, 0.0, self.round_to, self.uniform, quantity=quantity),
            parse_spec("importance", self.importance),
            parse_spec("allocation", self.allocation),
            self.kinds,
            self.steps,
            self.floor,
            self.statistics,
            parse_spec("compensation", self.compensation) if self.compensation else None,
            parse_target(self.final, count) if self.final else None,
        )


def prune_to_stock(graph: Graph, request: Request, batches: Sequence[Any], context: Context) -> Pruned:
    """Prune to equal widths that a configuration of the source's architecture has. Raises UsageError without one."""
    budget = replace(request.budget, allowed=allowed_counts(graph, analyze(graph)))
    request = replace(request, budget=budget)
    pruned = prune(graph, request, batches, context.progress, context.source)
    if not has_stock_form(pruned.graph):  # heads and residual width may each be expressible and not go together
        request = replace(request, budget=replace(budget, allowed=without_heads(budget.allowed)))
        pruned = prune(graph, request, batches, context.progress, context.source)
    require_stock(pruned.graph)
    return pruned
