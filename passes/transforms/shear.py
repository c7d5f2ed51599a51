"""The shear pass: masks and weights are trained together towards a shape, which is then cut (Sheared LLaMA)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, final

from graphprune.analysis.analyse import analyze
from graphprune.bounds import Count, Positive, Share, require_limits
from graphprune.ir.contract import fitting_length
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Lineage
from graphprune.ir.placement import place_like
from graphprune.passes.transforms.aimed import (
    EVALUATIONS,
    Aimed,
    cutting_options,
    first_row,
    is_stock,
    opened,
    told_apart,
)
from graphprune.passes.transforms.recover import describe, report_to
from graphprune.passes.transforms.trained_text import TextOptions, find_domains
from graphprune.pipeline.passes import Context
from graphprune.processes import process_count
from graphprune.pruning.rounds import final_choice, source_widths
from graphprune.pruning.stock_widths import allowed_counts, require_stock, without_heads
from graphprune.training.learning.domains import Weighing
from graphprune.training.options import Steps, TrainOptions, require
from graphprune.training.schedule import Shape as Schedule
from graphprune.training.shearing.masks import HardConcrete
from graphprune.training.shearing.shape import LAYERS, Shape, find_shape, read_shape
from graphprune.training.train import train

_NEAR = 0.02


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
class Shear(Weighing, TextOptions, Masks, Steps, Aimed):
    """Learn which units go while training on `tokens` tokens, until the model has equal layers at `target`, and cut it.

    `shape` gives widths, `[residual=192,attention=3,mlp=512,layers=4]` (of attention: groups of heads); what it leaves
    out keeps an even share that the target allows. With `uniform` the widths are those of a configuration of the
    source's architecture. Weights learn at `lr`, masks faster. `reweigh` and what follows move the weights of several
    texts, see `recover`. Before `linear(x, w[44, 32])`, after `linear(x, w[27, 24])`.
    """

    name: ClassVar[str] = "shear"
    role: ClassVar[str] = "learns what goes"
    shape: tuple[str, ...] = ()
    lr: Positive = 1e-4
    schedule: Schedule = "cosine"
    warmup: Share = 0.1

    def __post_init__(self) -> None:
        require_limits(self, self.name)
        self.as_pruning().check()
        given = read_shape(self.shape)
        require("blocks" not in self.kinds, "shear drops whole layers and no single blocks; give shape=[layers=N]")
        told = LAYERS not in self.kinds or LAYERS in given
        require(told, "shear drops layers where shape says how many stay; give shape=[layers=N]")
        self.learner(())

    def learner(self, keep: tuple[str, ...], layers: int = 0) -> HardConcrete:
        """The learner of masks for a shape."""
        return HardConcrete(keep, layers, self.temperature, self.ramp, self.mask_lr, self.multiplier_lr)

    @property
    def asked_kinds(self) -> tuple[str, ...]:
        layers = (LAYERS,) if LAYERS in read_shape(self.shape) and LAYERS not in self.kinds else ()
        return (*self.kinds, *layers)

    @property
    def equal_layers(self) -> bool:
        return True

    def run(self, graph: Graph, context: Context) -> Graph:
        shape = self.find_shape(graph, context)
        batch = self.rows * self.accumulate * process_count()
        length = fitting_length(graph, self.length)
        steps = -(-self.tokens // (batch * length))
        text = TextOptions(self.data, self.field, self.loss_on, self.bos, self.cache)
        stream = opened(text, graph, context, length, batch, steps)
        weighing = Weighing(self.reweigh, self.references, self.eta, self.smoothing)
        options = self.train_options(steps, first_row(graph), context)
        trained = train(
            graph,
            options,
            stream,
            None,
            context.held_out,
            context.folder,
            report_to(context, max(1, steps // EVALUATIONS), self.name, "shearing"),
            self.learner(shape.keep, shape.layers),
            find_domains(text, weighing, graph, context, stream),
        )
        context.log(describe(trained, self.name))
        result = place_like(trained.graph, graph)
        if self.uniform:
            require_stock(result)
        end = first_row(graph) + steps * batch
        return told_apart(result, end, trained.segments).note(*told(trained.learned))

    def find_shape(self, graph: Graph, context: Context) -> Shape:
        """The shape, of widths that a stock checkpoint has where that is asked for. Raises UsageError, BudgetError."""
        source = context.source or graph
        request = self.request(source)
        now = replace(graph, lineage=Lineage())
        choice = final_choice(now, request, source, source_widths(graph, source), graph.lineage)
        groups, given = analyze(graph), read_shape(self.shape)
        budget = replace(choice.budget, allowed=allowed_counts(graph, groups) if self.uniform else {})
        shape = find_shape(groups, choice.candidates, budget, given)
        if self.uniform and not is_stock(graph, shape.counts):  # heads and residual width may not go together
            budget = replace(budget, allowed=without_heads(budget.allowed))
            shape = find_shape(groups, choice.candidates, budget, given)
        return shape

    def train_options(self, steps: int, row: int, context: Context) -> TrainOptions:
        options = cutting_options(self, steps, row, self.clip, self.save_every, context)
        return replace(options, moments="reset")


def told(learned: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    """What is said of masks that did not come to their targets."""
    gone, wanted = learned["sparsity"], learned["targets"]
    far = max(abs(gone[name] - wanted[name]) for name in wanted)
    if far <= _NEAR:
        return ()
    return (
        f"shear: masks ended up to {far:.0%} of the units from their targets; give it more tokens, or a higher mask_lr",
    )
