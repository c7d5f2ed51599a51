"""The shear pass: masks and weights are trained together towards a shape, which is then cut (Sheared LLaMA)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, final

from annotated_types import Gt, Lt

from graphprune.analysis.analyse import analyze
from graphprune.bounds import Count, Positive, Share, require_limits
from graphprune.budget.budgets import Budget
from graphprune.budget.quantities import parse_quantity
from graphprune.budget.targets import Target, make_target
from graphprune.errors import UsageError
from graphprune.ir.contract import fitting_length
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Lineage
from graphprune.ir.placement import place_like
from graphprune.ir.plan import Plan
from graphprune.passes.transforms.recover import describe, own_name, report_to
from graphprune.passes.transforms.trained_text import TextOptions, find_domains, kept_segments, open_text
from graphprune.pipeline.passes import Context
from graphprune.pipeline.stages import PrunePass
from graphprune.processes import process_count
from graphprune.pruning.options import Pruning
from graphprune.pruning.rounds import Request, final_choice, source_widths
from graphprune.pruning.stock_widths import allowed_counts, has_stock_form, require_stock, without_heads
from graphprune.rewriting.apply import apply
from graphprune.spec import parse_spec
from graphprune.training.learning.domains import Weighing
from graphprune.training.options import Steps, TrainOptions, require
from graphprune.training.schedule import Shape as Schedule
from graphprune.training.shearing.masks import HardConcrete
from graphprune.training.shearing.shape import LAYERS, Shape, find_shape, read_shape
from graphprune.training.train import train

_EVALUATIONS = 5  # a cut is made for each
_NEAR = 0.02
_NEVER = 1e9  # nats: targets that rise make the loss rise


@dataclass(frozen=True)
class Aimed:
    """The target, which the printed spec begins with, and the shape."""

    target: str = "80%"
    shape: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("mlp", "attention", "residual")
    quantity: str = "parameters"
    uniform: bool = False
    round_to: Count = 1
    min_units: Count = 1
    floor: Annotated[float, Gt(0), Lt(1)] | None = None
    scope: str | None = None
    protect: tuple[float, ...] = (0, 0)


@dataclass(frozen=True)
class Masks:
    """How masks are trained, see `HardConcrete`, and on how many tokens."""

    tokens: Count = 500_000
    length: Count = 256
    temperature: Positive = HardConcrete.temperature
    ramp: Share = HardConcrete.ramp
    mask_lr: Positive | None = None
    multiplier_lr: Positive = HardConcrete.multiplier_lr
    clip: Positive = 1.0
    save_every: Count | None = None


@final
@dataclass(frozen=True)
class Shear(PrunePass, Weighing, TextOptions, Masks, Steps, Aimed):
    """Learn which units go while training on `tokens` tokens, until the model has equal layers at `target`, and cut it.

    `shape` gives widths, `[residual=192,attention=3,mlp=512,layers=4]` (of attention: groups of heads); what it leaves
    out keeps an even share that the target allows. With `uniform` the widths are those of a configuration of the
    source's architecture. Weights learn at `lr`, masks faster. `reweigh` and what follows move the weights of several
    texts, see `recover`. Before `linear(x, w[44, 32])`, after `linear(x, w[27, 24])`.
    """

    name: ClassVar[str] = "shear"
    lr: Positive = 1e-4
    schedule: Schedule = "cosine"
    warmup: Share = 0.1
    known: Target | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_limits(self, self.name)
        self.as_pruning().check()
        given = read_shape(self.shape)
        require("blocks" not in self.kinds, "shear drops whole layers and no single blocks; give shape=[layers=N]")
        told = LAYERS not in self.kinds or LAYERS in given
        require(told, "shear drops layers where shape says how many stay; give shape=[layers=N]")
        self.learner(())

    def as_pruning(self) -> Pruning:
        """The same options of what may be cut, as others have them."""
        return Pruning(kinds=self.kinds, scope=self.scope, protect=self.protect)

    def learner(self, keep: tuple[str, ...], layers: int = 0) -> HardConcrete:
        """The learner of masks for a shape."""
        return HardConcrete(keep, layers, self.temperature, self.ramp, self.mask_lr, self.multiplier_lr)

    def towards(self, target: Target, final: Target | None, options: Pruning) -> "Shear":
        """The pass for a target; raises UsageError for options of pruning that have no place in it."""
        plain = Pruning()
        for name in ("importance", "allocation", "compensation", "steps", "statistics", "within", "runtime"):
            if getattr(options, name) != getattr(plain, name):
                raise UsageError(f"{name} has no place in shear, which learns what goes; leave it out of prune")
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
        layers = (LAYERS,) if LAYERS in read_shape(self.shape) and LAYERS not in self.kinds else ()
        return Request(
            Budget(target.most, self.min_units, 0.0, self.round_to, True, quantity=target.quantity),
            parse_spec("importance", "magnitude"),
            parse_spec("allocation", "uniform"),
            (*self.kinds, *layers),
            floor=self.floor,
            scope=self.scope,
            protect=self.as_pruning().ends,
        )

    def run(self, graph: Graph, context: Context) -> Graph:
        shape = self.find_shape(graph, context)
        batch = self.rows * self.accumulate * process_count()
        length = fitting_length(graph, self.length)
        steps = -(-self.tokens // (batch * length))
        first_row = graph.memo.get("schedule", {}).get("rows", 0)
        text = TextOptions(self.data, self.field, self.loss_on, self.bos, self.cache)
        stream = open_text(text, graph, context, length, batch, length * (first_row + steps * batch))
        weighing = Weighing(self.reweigh, self.references, self.eta, self.smoothing)
        options = self.train_options(steps, first_row, context)
        trained = train(
            graph,
            options,
            stream,
            None,
            context.held_out,
            context.folder,
            report_to(context, max(1, steps // _EVALUATIONS), self.name, "shearing"),
            self.learner(shape.keep, shape.layers),
            find_domains(text, weighing, graph, context, stream),
        )
        context.log(describe(trained, self.name))
        result = place_like(trained.graph, graph)
        if self.uniform:
            require_stock(result)
        memory: dict[str, Any] = {"steps": 0, "total": None, "tokens": 0, "rows": first_row + steps * batch}
        return result.remember("schedule", memory | kept_segments(trained.segments)).note(*told(trained.learned))

    def find_shape(self, graph: Graph, context: Context) -> Shape:
        """The shape, of widths that a stock checkpoint has where that is asked for. Raises UsageError, BudgetError."""
        source = context.source or graph
        request = self.request(source)
        now = replace(graph, lineage=Lineage())
        choice = final_choice(now, request, source, source_widths(graph, source), graph.lineage)
        groups, given = analyze(graph), read_shape(self.shape)
        budget = replace(choice.budget, allowed=allowed_counts(graph, groups) if self.uniform else {})
        shape = find_shape(groups, choice.candidates, budget, given)
        if self.uniform and not is_stock(graph, shape):  # heads and residual width may not go together
            budget = replace(budget, allowed=without_heads(budget.allowed))
            shape = find_shape(groups, choice.candidates, budget, given)
        return shape

    def train_options(self, steps: int, first_row: int, context: Context) -> TrainOptions:
        every = max(1, steps // _EVALUATIONS)
        return TrainOptions(
            steps=steps,
            rows=self.rows,
            accumulate=self.accumulate,
            lr=self.lr,
            min_lr=self.min_lr,
            schedule=self.schedule,
            warmup=self.warmup,
            decay=self.decay,
            clip=self.clip,
            moments="reset",
            keep="last",
            divergence=_NEVER,
            first_row=first_row,
            eval_every=every,
            save_every=every if self.save_every is None else self.save_every,
            seed=context.seed,
            device=own_name(context),
        )


def is_stock(graph: Graph, shape: Shape) -> bool:
    """Whether a configuration of the source's architecture has the widths of a shape."""
    keep = {id: tuple(range(count)) for id, count in shape.counts.items()}
    return has_stock_form(apply(replace(graph, companions={}), Plan(keep)))


def told(learned: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    """What is said of masks that did not come to their targets."""
    gone, wanted = learned["sparsity"], learned["targets"]
    far = max(abs(gone[name] - wanted[name]) for name in wanted)
    if far <= _NEAR:
        return ()
    return (
        f"shear: masks ended up to {far:.0%} of the units from their targets; give it more tokens, or a higher mask_lr",
    )
