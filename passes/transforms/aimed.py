"""Aimed: what passes share that train and cut at once, in the place of prune: a target, and what may be cut."""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Self

from annotated_types import Gt, Lt

from graphprune.bounds import Count
from graphprune.budget.budgets import Budget
from graphprune.budget.quantities import parse_quantity
from graphprune.budget.targets import Target, make_target
from graphprune.data.stream.mixture import Mixture, Segment
from graphprune.data.stream.packing import Stream
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.passes.transforms.recover import own_name
from graphprune.passes.transforms.trained_text import TextOptions, kept_segments, open_text
from graphprune.pipeline.passes import Context
from graphprune.pipeline.stages import PrunePass
from graphprune.pruning.options import Pruning
from graphprune.pruning.rounds import Request
from graphprune.pruning.stock_widths import has_stock_form
from graphprune.rewriting.apply import apply
from graphprune.spec import parse_spec
from graphprune.training.options import Steps, TrainOptions

EVALUATIONS = 5  # of a training; a cut is made for each
_NEVER = 1e9  # nats above the best loss: what is cut while it is trained makes the loss rise


@dataclass(frozen=True)
class Aimed(PrunePass, ABC):
    """A pass with the target, which its printed spec begins with, and what may shrink and how far.

    `role` says what it does in the place of scoring and choosing.
    """

    role: ClassVar[str]

    target: str = "80%"
    kinds: tuple[str, ...] = ("mlp", "attention", "residual")
    quantity: str = "parameters"
    uniform: bool = False
    round_to: Count = 1
    min_units: Count = 1
    floor: Annotated[float, Gt(0), Lt(1)] | None = None
    scope: str | None = None
    protect: tuple[float, ...] = (0, 0)
    known: Target | None = field(default=None, init=False, repr=False, compare=False)

    def as_pruning(self) -> Pruning:
        """The same options of what may be cut, as others have them."""
        return Pruning(kinds=self.kinds, scope=self.scope, protect=self.protect)

    @property
    def asked_kinds(self) -> tuple[str, ...]:
        """All kinds that shrink."""
        return self.kinds

    @property
    def equal_layers(self) -> bool:
        """Whether groups of a kind and a width keep the same count."""
        return self.uniform

    def towards(self, target: Target, final: Target | None, options: Pruning) -> Self:
        """The pass for a target; raises UsageError for options of pruning that have no place in it."""
        plain = Pruning()
        for name in ("importance", "allocation", "compensation", "steps", "statistics", "within", "runtime"):
            if getattr(options, name) != getattr(plain, name):
                raise UsageError(f"{name} has no place in {self.name}, which {self.role}; leave it out of prune")
        kinds = self.kinds if options.kinds == plain.kinds else options.kinds
        made = replace(
            self,
            target=str(target.most),
            quantity=target.spec,
            kinds=kinds,
            uniform=options.uniform,
            round_to=options.round_to or 1,
            min_units=options.min_units,
            floor=options.floor or None,
            scope=options.scope,
            protect=options.protect,
        )
        object.__setattr__(made, "known", target)
        return made

    def request(self, source: Graph) -> Request:
        """What is asked for, resolved for a source model."""
        quantity = parse_quantity(self.quantity)
        target = self.known or make_target(quantity, source, self.target)
        return Request(
            Budget(target.most, self.min_units, 0.0, self.round_to, self.equal_layers, quantity=target.quantity),
            parse_spec("importance", "magnitude"),
            parse_spec("allocation", "uniform"),
            self.asked_kinds,
            floor=self.floor,
            scope=self.scope,
            protect=self.as_pruning().ends,
        )


def cutting_options(
    asked: Steps, steps: int, row: int, clip: float, save_every: int | None, context: Context
) -> TrainOptions:
    """The options of a training of so many steps that cuts, from this row of the text on: the last weights stay."""
    every = max(1, steps // EVALUATIONS)
    return TrainOptions(
        steps=steps,
        rows=asked.rows,
        accumulate=asked.accumulate,
        lr=asked.lr,
        min_lr=asked.min_lr,
        schedule=asked.schedule,
        warmup=asked.warmup,
        decay=asked.decay,
        clip=clip,
        keep="last",
        divergence=_NEVER,
        first_row=row,
        eval_every=every,
        save_every=every if save_every is None else save_every,
        seed=context.seed,
        device=own_name(context),
    )


def opened(text: TextOptions, graph: Graph, context: Context, length: int, batch: int, steps: int) -> Stream | Mixture:
    """The rows of a training of so many steps, from where the one before stopped."""
    return open_text(text, graph, context, length, batch, length * (first_row(graph) + steps * batch))


def first_row(graph: Graph) -> int:
    """The row of the text that a training of the graph begins at."""
    return int(graph.memo.get("schedule", {}).get("rows", 0))


def told_apart(graph: Graph, rows: int, segments: Sequence[Segment]) -> Graph:
    """The graph with what the training after it goes by: a schedule of its own, from this row of the text on."""
    memory: dict[str, Any] = {"steps": 0, "total": None, "tokens": 0, "rows": rows}
    return graph.remember("schedule", memory | kept_segments(segments))


def is_stock(graph: Graph, counts: Mapping[str, int]) -> bool:
    """Whether a configuration of the source's architecture has these widths."""
    keep = {id: tuple(range(count)) for id, count in counts.items()}
    return has_stock_form(apply(replace(graph, companions={}), Plan(keep)))
