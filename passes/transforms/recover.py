"""The recover pass: train what pruning left until it works again."""

import math
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ClassVar, Literal, final

from graphprune.bounds import Count, NotNegative, describe_bounds, wrong_fields
from graphprune.data.stream.mixture import Segment
from graphprune.encoders.embeddings import require_embeddings
from graphprune.encoders.losses import pair_loss
from graphprune.errors import UsageError
from graphprune.ir.contract import fitting_length
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place_like
from graphprune.ir.plan import Edit, Plan
from graphprune.passes.transforms.trained_text import TextOptions, continued, find_domains, kept_segments, open_text
from graphprune.pipeline.passes import Context, Pass
from graphprune.processes import process_count
from graphprune.rewriting.apply import apply
from graphprune.running.devices import choose_device
from graphprune.running.loss import Loss
from graphprune.spec import parse_spec
from graphprune.training.embedding_terms import Terms
from graphprune.training.embedding_training import EmbeddingOptions, Epochs, train_embeddings
from graphprune.training.execution.compiled import missing_compiler
from graphprune.training.learning.domains import Weighing
from graphprune.training.learning.learner import Learner
from graphprune.training.metrics import Moment, Report
from graphprune.training.options import Conduct, LoraOptions, Steps, TrainOptions, Updates, require
from graphprune.training.train import Trained, train

_GRID_RANK = 8  # of adapters on weights in 4 bits, as QA-LoRA's
_EVALUATIONS = 20  # in one pass, where `eval_every` does not say
_EVAL_SHARE, _EVAL_TOKENS = 50, (2_048, 32_768)  # text of one: a share of the trained, for a tenth of the time in all


@dataclass(frozen=True)
class Place:
    """Where a pass is in the schedule that it shares with others, in steps, and at which row of the data it begins.

    `granted` are the tokens that all passes of the schedule were given, this one included.
    """

    first: int
    steps: int
    total: int | None
    row: int
    granted: int


@dataclass(frozen=True)
class Length:
    """How much to train on, in tokens or in steps, in rows of `length` tokens."""

    tokens: Count = 1_000_000
    steps: int | None = None
    rows: Count = Steps.rows  # of the steps; here it has its place in the printed spec
    length: Count = 256


@dataclass(frozen=True)
class Position:
    """Where the training stands in a schedule that several share; None goes on from the last."""

    total_tokens: int | None = None
    total_steps: int | None = None
    first_step: int | None = None


@dataclass(frozen=True)
class Taught(TextOptions):
    """What is trained, all weights or adapters of rank `lora`, and the text.

    `learner` is a spec of another way to train, a plug-in of the kind `training`.
    With `lora_block` adapters tune weights in 4 bits, see `LoraOptions`; their rank is 8 where `lora` does not say.
    """

    lora: int = 0
    lora_alpha: float = LoraOptions.alpha
    lora_dropout: float = LoraOptions.dropout
    lora_targets: tuple[str, ...] = LoraOptions.targets
    lora_block: Literal[0, 16, 32, 64, 128, 256] = 0
    learner: str | None = None


@dataclass(frozen=True)
class Embedded:
    """What a model of embeddings learns, in place of a text's tokens: the weights of its terms, see `Terms`."""

    task: NotNegative = Terms.task
    similarity: NotNegative = Terms.similarity
    feature: NotNegative = Terms.feature
    hidden: NotNegative = Terms.hidden


# Fields come from the last base first, and are printed in that order.
@final
@dataclass(frozen=True)
class Recover(Pass, Weighing, Conduct, Embedded, Taught, Updates, Position, Steps, Length):
    """Train the model on `tokens` tokens of text, from its own data and with the unpruned model as teacher if wanted.

    A step takes `rows` x `accumulate` rows of `length` tokens (times the processes). The learning rate has one course
    over all passes that name the same `total_tokens` (or `total_steps`); each goes on where the last one stopped, in
    the schedule, in the data, and with the optimizer's moments, which a cut in between has sliced (`moments=reset`:
    without). `distill` is the weight of the teacher's logits, `lora` the rank of adapters that are trained in place of
    all weights, and `lora_block` how many inputs share a scale where these are in 4 bits. A model of embeddings learns
    from the unpruned one by `similarity`, `feature` and `hidden`, and from pairs by `task`. See docs/recovery.md for
    every option.

    Weights change, shapes do not: `linear(x, w[27, 32])` before and after.
    """

    name: ClassVar[str] = "recover"

    def __post_init__(self) -> None:
        for name, value, limits in wrong_fields(self):
            if name in _COUNTS:
                raise UsageError(f"{name} of recover is {describe_bounds(limits.bounds)}, not {value}")
        require(
            self.total_tokens is None or self.total_steps is None,
            "total_tokens and total_steps of recover say the same; give one",
        )
        require(
            self.learner is None or self.lora == self.lora_block == 0,
            "a learner of recover trains as it says itself; leave lora out",
        )
        learner = self.made_learner
        require(
            self.distill == 0 or learner is None or not learner.adds_tokens,
            f"recover: the learner {self.learner} adds tokens, which no teacher knows; leave distill out",
        )
        self.train_options(Place(self.first_step or 0, 0, None, 0, 0), 0)

    def run(self, graph: Graph, context: Context) -> Graph:
        if context.epochs is not None and context.loss is not None:
            return self.train_embeddings(graph, context, context.epochs, context.loss)
        length, segments = self.fitting(graph), tuple[Segment, ...]()
        batch = self.rows * self.accumulate * process_count()
        place = self.place(graph, batch, length)
        options = replace(self.train_options(place, context.seed), device=self.device or own_name(context))
        if options.steps > 0:
            needed = length * max(place.row + place.steps * batch, (place.total or 0) * batch)
            text = TextOptions(self.data, self.field, self.loss_on, self.bos, self.cache)
            stream = continued(open_text(text, graph, context, length, batch, needed), graph)
            weighing = Weighing(self.reweigh, self.references, self.eta, self.smoothing)
            domains = find_domains(text, weighing, graph, context, stream)
            teacher = (context.source or graph) if self.distill > 0 else None
            self.say_if_not_compiled(context, options)
            report = report_to(context, max(1, options.steps // _EVALUATIONS))
            edits = self.edits(graph, context.seed)
            start, learner = apply(graph, Plan(edits=edits)) if edits else graph, self.made_learner
            trained = train(start, options, stream, teacher, context.held_out, context.folder, report, learner, domains)
            context.log(describe(trained))
            told = (f"recover by domain{domains_told(trained)}",) if trained.domains else ()
            graph, segments = trained.graph.note(*told), trained.segments
        memory: dict[str, Any] = {
            "steps": place.first + place.steps,
            "total": place.total,
            "tokens": place.granted,
            "rows": place.row + place.steps * batch,
        }
        return graph.remember("schedule", memory | kept_segments(segments))

    def fitting(self, graph: Graph) -> int:
        """The tokens of a row: no more than the model was made for, with those that its learner puts before them."""
        more = 0 if self.made_learner is None else self.made_learner.adds_tokens
        room = fitting_length(graph, self.length + more)
        require(room >= more + 2, f"recover: {self.learner} leaves no room for a text in a context of {room} tokens")
        return room - more

    @property
    def made_learner(self) -> Learner | None:
        """The learner that is named, with its options. Raises UsageError."""
        return None if self.learner is None else parse_spec("training", self.learner)

    def edits(self, graph: Graph, seed: int) -> tuple[Edit, ...]:
        learner = self.made_learner
        return () if learner is None else learner.edits(graph)

    def train_embeddings(self, graph: Graph, context: Context, epochs: Epochs, loss: Loss) -> Graph:
        """Train a model of embeddings with the unpruned one as its teacher. Raises UsageError for options of others."""
        require(self.lora == 0, "lora of recover is of language models; leave it out")
        require(self.learner is None, "a learner of recover is of language models; leave it out")
        require(self.distill == 0, "distill of recover is of language models; take similarity, feature and hidden")
        options = EmbeddingOptions(
            self.tokens,
            self.lr,
            self.schedule,
            self.min_lr,
            self.warmup,
            self.decay,
            self.betas,
            self.weight_decay,
            self.clip,
            context.seed,
            Terms(self.task, self.similarity, self.feature, self.hidden),
        )
        report = partial(context.progress, "recovering")
        here, teacher = context.placed(graph), context.placed(context.source or graph)
        task = pair_loss(graph, require_embeddings(graph)) or loss  # whatever units are scored by
        found = train_embeddings(here, teacher, options, epochs, task, report)
        context.log(
            f"recover: {found.steps} steps, {found.tokens:,} tokens, loss {found.first:.4f} to {found.last:.4f}"
        )
        went = f"the loss of its terms went from {found.first:.3g} to {found.last:.3g}"
        return place_like(found.graph, graph).note(f"recover trained on {found.tokens:,} tokens; {went}")

    def say_if_not_compiled(self, context: Context, options: TrainOptions) -> None:
        missing = missing_compiler(choose_device(options.device)) if options.compile else None
        if missing is not None:
            context.log(f"recover is not compiled: {missing}")

    def place(self, graph: Graph, batch: int, length: int) -> Place:
        """Where this pass is in the schedule, from its options and from what earlier passes left in the graph's memo.

        Where tokens do not make whole steps, the sums over the passes are rounded, so that all make `total`.
        """
        each, memo = batch * length, graph.memo.get("schedule", {})
        total = math.ceil(self.total_tokens / each) if self.total_tokens is not None else self.total_steps
        going = total is not None and memo.get("total") == total
        first = self.first_step if self.first_step is not None else memo["steps"] if going else 0
        granted = (memo["tokens"] if going else 0) + self.tokens
        steps = self.steps
        if steps is None:
            end = math.ceil(granted / each) if self.total_tokens is not None else first + math.ceil(self.tokens / each)
            steps = max(0, (end if total is None else min(end, total)) - first)
        return Place(first, steps, total, memo.get("rows", 0), granted)

    def train_options(self, place: Place, seed: int) -> TrainOptions:
        """The options of the training; raises UsageError for those out of range."""
        shared = {f.name for part in (Steps, Updates, Conduct) for f in fields(part)}
        same = {name: getattr(self, name) for name in shared - _RESOLVED}
        every = max(1, place.steps // _EVALUATIONS)
        enough = sorted((_EVAL_TOKENS[0], self.tokens // _EVAL_SHARE, _EVAL_TOKENS[1]))[1]
        targets, rank = self.lora_targets, self.lora or (_GRID_RANK if self.lora_block else 0)
        return TrainOptions(
            steps=place.steps,
            first_step=place.first,
            total_steps=place.total,
            first_row=place.row,
            lora=LoraOptions(rank, self.lora_alpha, self.lora_dropout, targets, self.lora_block) if rank else None,
            eval_every=every if self.eval_every is None else self.eval_every,
            eval_tokens=enough if self.eval_tokens is None else self.eval_tokens,
            save_every=every if self.save_every is None else self.save_every,
            seed=seed,
            **same,
        )


def own_name(context: Context) -> str | None:
    """The device of the context as an option has it."""
    return None if context.device is None else str(context.device)


_COUNTS = ("tokens", "rows", "length", "accumulate")
_RESOLVED = {"eval_every", "eval_tokens", "save_every"}


def report_to(context: Context, every: int, name: str = "recover", doing: str = "recovering") -> Report:
    """Progress as it goes, and a line of the log every so many steps."""
    said = [0]

    def report(moment: Moment) -> None:
        context.progress(doing, moment.step, moment.steps, str(moment))
        context.track(moment.lines)
        if moment.step - said[0] >= every:
            said[0] = moment.step
            context.log(f"{name} step {moment.step}/{moment.steps}: {moment}")

    return report


def describe(trained: Trained, name: str = "recover") -> str:
    """One line about a finished training."""
    loss: Any = "not measured" if trained.loss is None else f"{trained.loss:.3f}"
    held = "" if trained.held_out is None else f", held out {trained.held_out:.3f} after step {trained.best_step}"
    told = f"; {trained.told}" if trained.told else ""
    return (
        f"{name}: {trained.steps} steps, {trained.tokens:,} tokens, last loss {loss}{held}{domains_told(trained)}{told}"
    )


def domains_told(trained: Trained) -> str:
    """The loss on each domain, and its weight in the end where there is more than one text."""
    weights = trained.segments[-1].weights if trained.segments else ()
    found = zip(trained.domains.items(), weights, strict=False)
    return "".join(f"; {name} {loss:.3f} (weight {weight:.3f})" for (name, loss), weight in found)
