"""The prune pass: cut a graph to a target with an importance, an allocation and a compensation."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Self, final

from graphprune.analysis.analyse import analyze
from graphprune.bounds import require_limits
from graphprune.budget.budgets import Budget
from graphprune.budget.quantities import parse_quantity
from graphprune.budget.targets import Target, make_target
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place_like
from graphprune.pipeline.passes import Context
from graphprune.pipeline.stages import PrunePass
from graphprune.pruning.options import Pruning
from graphprune.pruning.rounds import Pruned, Request, Surroundings, prune
from graphprune.pruning.stock_widths import allowed_counts, has_stock_form, require_stock, without_heads
from graphprune.runtimes.limits import narrow
from graphprune.spec import parse_spec


class Known(NamedTuple):
    """The target of a pruning, and that of the last where there are several."""

    target: Target
    final: Target | None


@dataclass(frozen=True)
class Aimed:
    """A pass with a target, which its printed spec begins with."""

    target: str = "80%"


@final
@dataclass(frozen=True)
class Prune(PrunePass, Pruning, Aimed):
    """Remove the least important units until the model costs `target` (`60%` of the source, `1B`).

    Before `linear(x, w[44, 32])`, after `linear(x, w[27, 32])`: parameters, buffers and the integers that follow them.
    `quantity` is what the target counts, in its own units: `parameters`, `cache`, `file{precision=int4}` or `latency`.
    `final` is the target of the last of several prunings, which the kinds are chosen for. `uniform` gives equal widths
    that a configuration of the source's architecture has, `runtime` those that its stock model has. Raises
    BudgetError, and UsageError where none has them.
    """

    name: ClassVar[str] = "prune"
    final: str | None = None
    quantity: str = "parameters"
    known: Known | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_limits(self, self.name)
        self.check()

    def towards(self, target: Target, final: Target | None, options: Pruning) -> Self:
        text = None if final is None else str(final.most)
        made = type(self)(target=str(target.most), final=text, quantity=target.spec, **vars(options))
        # The texts are for people and the history: what is known is not read back from them.
        object.__setattr__(made, "known", Known(target, final))
        return made

    def run(self, graph: Graph, context: Context) -> Graph:
        source, here = context.source or graph, context.placed(graph)
        stage = prunings(graph) - prunings(source)
        request, batches = self.request(source), context.windows(max(0, stage)) or ()
        if self.equal_layers:
            result = prune_to_stock(here, request, batches, context)
        else:
            result = prune(here, request, batches, surroundings(context))
        for note in result.notes:
            context.log(note)
        return place_like(result.graph, graph).note(*result.notes)

    def request(self, source: Graph) -> Request:
        """The options resolved for a source model."""
        target, final = self.known or self.read_targets(source)
        budget = Budget(
            target.most,
            self.min_units,
            0.0,
            self.round_to or 1,
            self.equal_layers,
            within=self.shares,
            even=self.even,
            quantity=target.quantity,
        )
        return Request(
            narrow(budget, self.wanted) if self.wanted else budget,
            parse_spec("importance", self.importance),
            parse_spec("allocation", self.allocation),
            self.kinds,
            self.steps,
            self.floor,
            self.statistics,
            parse_spec("compensation", self.compensation) if self.compensation else None,
            final.most if final is not None else None,
            self.scope,
            self.ends,
            self.wanted,
        )

    def read_targets(self, source: Graph) -> Known:
        """The targets of a spec. Raises UsageError, BudgetError."""
        quantity = parse_quantity(self.quantity)
        final = make_target(quantity, source, self.final) if self.final else None
        return Known(make_target(quantity, source, self.target), final)


def surroundings(context: Context) -> Surroundings:
    return Surroundings(
        loss=context.loss,
        source=context.source,
        seed=context.seed,
        report=context.progress,
        folder=context.folder,
        cache=context.cache if context.folder else None,
        room=context.room,
    )


def prunings(graph: Graph) -> int:
    """How many passes of this kind made the graph."""
    return sum(step.spec.startswith(f"{Prune.name}{{") for step in graph.history)


def prune_to_stock(graph: Graph, request: Request, batches: Sequence[Any], context: Context) -> Pruned:
    """Prune to equal widths that a configuration of the source's architecture has. Raises UsageError without one."""
    budget = replace(request.budget, allowed=allowed_counts(graph, analyze(graph)))
    request = replace(request, budget=budget)
    pruned = prune(graph, request, batches, surroundings(context))
    if not has_stock_form(pruned.graph):  # heads and residual width may each be expressible and not go together
        request = replace(request, budget=replace(budget, allowed=without_heads(budget.allowed)))
        pruned = prune(graph, request, batches, surroundings(context))
    require_stock(pruned.graph)
    return pruned
