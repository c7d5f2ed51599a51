"""The shrink pass: the least salient units go while the model is trained, until it meets the target (EfficientLLM)."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, final

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import BLOCKS, Group
from graphprune.bounds import Count, NotNegative, Positive, Share, require_limits
from graphprune.budget.budgets import cost_of
from graphprune.errors import UsageError
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
from graphprune.pruning.candidates import Choice
from graphprune.pruning.rounds import Request, final_choice, source_widths
from graphprune.pruning.stock_widths import allowed_counts, require_stock, without_heads
from graphprune.training.learning.domains import Weighing
from graphprune.training.metrics import Moment, Report
from graphprune.training.options import Steps, TrainOptions, require
from graphprune.training.schedule import Shape as Schedule
from graphprune.training.shearing.shape import find_shape
from graphprune.training.shrinking.least_salient import Compensate, LeastSalient
from graphprune.training.train import train

_HEARD = 0.05
_MOST = 0.1  # of the source that may go at once: what is left has the steps in between to make up for it


@dataclass(frozen=True)
class Removals:
    """On how many tokens units go, and how they are chosen, see `LeastSalient`; the teacher's weight in the loss."""

    tokens: Count = 500_000
    length: Count = 256
    every: Count = LeastSalient.every
    compensate: Compensate = LeastSalient.compensate
    memory: Share = LeastSalient.memory
    damping: NotNegative = LeastSalient.damping
    batch: Share = LeastSalient.batch
    factors: tuple[str, ...] = ()
    clip: NotNegative = 1.0
    distill: Share = 0.0
    temperature: Positive = 2.0
    save_every: Count | None = None


@final
@dataclass(frozen=True)
class Shrink(Weighing, TextOptions, Removals, Steps, Aimed):
    """Train on `tokens` tokens; every `every` steps the units go that count least, until the model costs `target`.

    A unit is what can go by itself: an MLP channel, a key head with its queries, an entry of the residual stream. Its
    saliency comes of the gradients that the training has; with `compensate=obs` the weights that stay take over. With
    `uniform` the widths are those of a configuration of the source's architecture. The optimizer goes on with what is
    left. Before `linear(x, w[44, 32])`, after `linear(x, w[27, 24])`.
    """

    name: ClassVar[str] = "shrink"
    role: ClassVar[str] = "has its own saliency and removes by it"
    lr: Positive = 1e-4
    schedule: Schedule = "constant"
    warmup: Share = 0.05

    def __post_init__(self) -> None:
        require_limits(self, self.name)
        self.as_pruning().check()
        require(BLOCKS.isdisjoint(self.kinds), "shrink removes units, and blocks and layers have none; cut them before")
        require("vocabulary" not in self.kinds, "shrink does not cut tokens; name vocabulary in prune.kinds of others")
        LeastSalient(factors=self.factors)

    def request(self, source: Graph) -> Request:
        found = super().request(source)
        cost = cost_of(analyze(source), found.budget)
        self.require_tokens(source, cost(analyze(source).sizes()), found.budget.target)
        return found

    def require_tokens(self, graph: Graph, cost: int, target: int) -> None:
        """Raise UsageError where too much would go at once."""
        each = self.step_tokens(graph)
        times, gone = math.ceil(math.ceil(self.tokens / each) / self.every), 1 - target / cost
        if gone > _MOST * times:
            needed = math.ceil(gone / _MOST) * self.every * each
            raise UsageError(
                f"tokens={self.tokens} of shrink are {times} removals of {gone / times:.0%} of the model each, with "
                f"{self.every * each:,} tokens between them; give it {needed:,} or more, or smaller steps"
            )

    def step_tokens(self, graph: Graph) -> int:
        """The tokens of a step."""
        return self.rows * self.accumulate * process_count() * fitting_length(graph, self.length)

    def run(self, graph: Graph, context: Context) -> Graph:
        batch = self.rows * self.accumulate * process_count()
        length = fitting_length(graph, self.length)
        steps = math.ceil(self.tokens / (batch * length))
        text = TextOptions(self.data, self.field, self.loss_on, self.bos, self.cache)
        stream = opened(text, graph, context, length, batch, steps)
        weighing = Weighing(self.reweigh, self.references, self.eta, self.smoothing)
        trained = train(
            graph,
            self.train_options(steps, first_row(graph), context),
            stream,
            (context.source or graph) if self.distill > 0 else None,
            context.held_out,
            context.folder,
            heard(context, max(1, steps // EVALUATIONS)),
            self.learner(graph, context),
            find_domains(text, weighing, graph, context, stream),
        )
        context.log(describe(trained, self.name))
        result = place_like(trained.graph, graph)
        if self.uniform:
            require_stock(result)
        return told_apart(result, first_row(graph) + steps * batch, trained.segments)

    def learner(self, graph: Graph, context: Context) -> LeastSalient:
        """The learner for what may shrink of this graph, and how far. Raises UsageError, BudgetError."""
        source = context.source or graph
        request = self.request(source)
        widths = source_widths(graph, source)
        choice = final_choice(replace(graph, lineage=Lineage()), request, source, widths, graph.lineage)
        shares = {g.id: math.ceil(choice.budget.floor * widths[g.id] - 1e-9) for g in choice.candidates}
        shrinking = with_stock_form(graph, choice) if self.uniform else choice.candidates
        return LeastSalient(
            tuple(f"{g.id}={min(g.units, max(self.min_units, shares[g.id]))}" for g in shrinking),
            choice.budget.target,
            self.quantity,
            self.every,
            self.round_to,
            self.uniform,
            self.memory,
            self.compensate,
            self.damping,
            self.batch,
            self.factors,
        )

    def train_options(self, steps: int, row: int, context: Context) -> TrainOptions:
        options = cutting_options(self, steps, row, self.clip, self.save_every, context)
        return replace(options, distill=self.distill, temperature=self.temperature)


def with_stock_form(graph: Graph, choice: Choice) -> tuple[Group, ...]:
    """The candidates that may shrink together to equal widths of a stock checkpoint: all, or all but heads."""
    groups = analyze(graph)
    budget = replace(choice.budget, uniform=True, allowed=allowed_counts(graph, groups))
    if is_stock(graph, find_shape(groups, choice.candidates, budget, {}).counts):
        return choice.candidates
    whole = {kind for kind, counts in without_heads(budget.allowed).items() if len(counts) == 1}
    return tuple(group for group in choice.candidates if group.kind not in whole)


def heard(context: Context, every: int) -> Report:
    """Progress as it goes, and a line of the log whenever another twentieth of the model is gone."""
    inner, said = report_to(context, every, "shrink", "shrinking"), [1.0]

    def report(moment: Moment) -> None:
        inner(moment)
        last = dict(moment.lines[-1].get("learner", {})) if moment.lines else {}
        left = last.pop("left", 1.0)
        if said[0] - left >= _HEARD:
            said[0] = left
            gone = ", ".join(f"{count:.0f} {kind}" for kind, count in last.items())
            context.log(f"shrink step {moment.step}/{moment.steps}: {left:.1%} is left; gone are {gone}")

    return report
