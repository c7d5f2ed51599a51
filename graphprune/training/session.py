"""A training session: the model, optimizer, teacher and data that stay the same while it runs, and where it is."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from graphprune.errors import UsageError
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place, place_nodes
from graphprune.ir.plan import Plan
from graphprune.processes import process_count
from graphprune.running.devices import choose_device, make_current
from graphprune.training.adapters import Trainee
from graphprune.training.distributed import is_sharded, shard
from graphprune.training.divergence import Watch
from graphprune.training.execution.choice import choose_checkpoint, free_bytes
from graphprune.training.execution.compiled import missing_compiler
from graphprune.training.execution.way import Way
from graphprune.training.learning.learner import Learner, Learning
from graphprune.training.learning.weights import learner_of
from graphprune.training.objective.head import split_head
from graphprune.training.objective.objective import Objective, Own
from graphprune.training.objective.predictor import Predictor
from graphprune.training.objective.routing import routed_form
from graphprune.training.objective.teacher import DTYPES, Teacher, make_teacher
from graphprune.training.optimizer.adamw import AdamW, make_adamw
from graphprune.training.optimizer.moments import Moments, carried_moments, write_moments
from graphprune.training.options import TrainOptions
from graphprune.training.saved_state import Snapshot

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    from graphprune.training.learning.domains import Domains


class Stream(Protocol):
    """An endless sequence of packed rows that any position of can be asked for, always with the same answer."""

    @property
    def length(self) -> int: ...

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Rows start, start + 1, ...: ids and labels, int64 [count, length]; a label of -100 does not count."""


@dataclass(frozen=True, eq=False)
class Around:
    """What a session works with, whatever graph it trains."""

    options: TrainOptions
    stream: Stream
    accelerator: "Accelerator"
    teacher: Teacher | None
    held_out: Tensor | None
    folder: Path | None
    domains: "Domains | None" = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Session(Around):
    """All that stays the same while a training runs, from one cut to the next where the learner makes any.

    `graph` is what it was made for, on the processor, with weights and moments as they were then.
    """

    graph: Graph
    learning: Learning
    trainee: Trainee
    model: Predictor
    objective: Any
    optimizer: "AcceleratedOptimizer"
    words: int | None

    @property
    def around(self) -> Around:
        """What a session of another graph works with as well."""
        return Around(*(getattr(self, each.name) for each in fields(Around)))

    @property
    def tokens_per_step(self) -> int:
        options = self.options
        return options.rows * options.accumulate * int(self.accelerator.num_processes) * self.stream.length

    @property
    def guess(self) -> float:
        """The loss of a model for which all tokens are equally likely, in nats."""
        return math.log(self.words or math.inf)


@dataclass(frozen=True, eq=False)
class State:
    """Where a training is: the steps done, what is known of the loss, and the best weights unless the first are.

    `cuts` are what its learner has cut so far, `domains` the last losses on the held-out text of each domain.
    """

    step: int = 0
    watch: Watch = field(default_factory=Watch)
    loss: float | None = None
    best: Snapshot | Path | None = None
    cuts: tuple[Plan, ...] = ()
    domains: Mapping[str, float] = field(default_factory=dict)


def prepare(
    accelerator: "Accelerator",
    graph: Graph,
    options: TrainOptions,
    stream: Stream,
    teacher: Graph | None,
    held_out: Tensor | None,
    folder: Path | None,
    learner: Learner | None = None,
    domains: "Domains | None" = None,
) -> Session:
    """A session of a graph with a learner, the one that the options stand for unless another is given."""
    teach = None
    if options.distill > 0 and teacher is not None:
        teach = make_teacher(teacher, options, stream.length, accelerator.device)
    chosen = learner or learner_of(options)
    around = Around(options, stream, accelerator, teach, held_out, folder, domains)
    carried = carried_moments(graph) if options.moments == "carry" else None
    return assemble(around, graph, lambda here: chosen.begin(here, options), carried)


def assemble(around: Around, graph: Graph, begin: Callable[[Graph], Learning], carried: Moments | None) -> Session:
    """A session of a graph, which `begin` makes a learning of where it is trained, and of the moments that it has."""
    options, accelerator, teach = around.options, around.accelerator, around.teacher
    device, sharded = accelerator.device, is_sharded(options, accelerator)
    learning = begin(place_nodes(graph, device) if sharded else place(graph, device))
    trainee = learning.trainee
    require_possible(learning, options, accelerator, sharded)
    words = vocabulary_size(trainee.graph)
    length = around.stream.length + len(learning.lead.prompt)
    way = choose_way(learning, options, length, device, sharded)
    run = routed_form(trainee.graph, options.balance / options.accumulate, options.routing)
    model = Predictor(run, options.rows, length, plain=learning.runs_plain, way=way)
    if options.compile and not learning.runs_plain:  # layers that others have wrapped stay as they are
        model.compile()
    if sharded:
        trainee = shard(trainee, model, device)
    made = make_adamw(trainee.trainable, options, learning.rates(), learning.pulls())
    if options.in_backward and isinstance(made, AdamW):
        step_in_backward(trainee, made, accelerator)
    own = Own(learning.reads, learning.terms) if learning.reads else None
    objective: Any = Objective(model, words or 1, learning.blend(options), teach, own)
    objective, optimizer = (objective, wrapped(made)) if sharded else accelerator.prepare(objective, made)
    if carried is not None and learning.keeps_moments:
        write_moments(optimizer, trainee.trainable, carried)
    return Session(
        **vars(around),
        graph=graph,
        learning=learning,
        trainee=trainee,
        model=model,
        objective=objective,
        optimizer=optimizer,
        words=words,
    )


def require_possible(learning: Learning, options: TrainOptions, accelerator: "Accelerator", sharded: bool) -> None:
    """Raise UsageError for what this learner cannot be trained with."""
    plain = learning.runs_plain and learning.keeps_moments and not learning.rates() and not learning.pulls()
    several = accelerator.num_processes > 1
    if options.in_backward and not plain:
        raise UsageError("in_backward=true is for a learner that trains all weights and nothing else; leave it out")
    if sharded and not plain:
        raise UsageError("this learner is not trained in shards; leave out shard, so that each process has all of it")
    if several and learning.rates():
        raise UsageError("this learner trains tensors that processes would not share; start one")


def step_in_backward(trainee: Trainee, optimizer: AdamW, accelerator: "Accelerator") -> None:
    """Let backward update each weight; raises UsageError where gradients come from several processes."""
    if accelerator.num_processes > 1:
        raise UsageError("in_backward=true steps before processes have met; start one, or leave it out")
    for parameter in trainee.trainable.values():
        parameter.register_post_accumulate_grad_hook(optimizer.update_and_free)  # type: ignore[no-untyped-call]


def choose_way(learning: Learning, options: TrainOptions, length: int, device: torch.device, sharded: bool) -> Way:
    """How forward and backward are run: by the options, and by what is free once gradients and moments are there."""
    trainee, plain = learning.trainee, learning.runs_plain
    compiled = options.compile and plain and missing_compiler(device) is None
    narrow = None if options.precision == "none" else DTYPES[options.precision]
    way = Way(options.checkpoint, compiled, sharded, narrow)
    if not learning.recomputes:
        return replace(way, checkpoint="off")
    if options.checkpoint != "auto":
        return way
    split = split_head(trainee.graph) if plain else None
    own = 3 * sum(4 * parameter.numel() for parameter in trainee.trainable.values())
    free = free_bytes(device)
    left = None if free is None else free - (own // process_count() if sharded else own)
    body = trainee.graph if split is None else split.body
    chosen = choose_checkpoint(body, options.rows, length, left, spare=device.type != "cpu")
    return replace(way, checkpoint="off" if compiled and chosen == "selective" else chosen)


def wrapped(optimizer: torch.optim.Optimizer) -> "AcceleratedOptimizer":
    """An optimizer of tensors that are spread over processes already, in the form that accelerate gives others."""
    from accelerate.optimizer import AcceleratedOptimizer

    return AcceleratedOptimizer(optimizer, device_placement=False)


def make_accelerator(options: TrainOptions) -> "Accelerator":
    """Accelerate for one stretch of training; what an earlier one chose in this process does not bind it."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    device = choose_device(options.device)
    make_current(device)
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    precision = "no" if options.precision == "none" else options.precision
    try:
        accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
    except ValueError as error:  # a precision that the device does not have
        raise UsageError(f"precision={options.precision} does not work on {device}: {error}") from error
    if accelerator.num_processes != process_count():
        found, started = accelerator.num_processes, process_count()
        raise UsageError(f"{started} processes were started and {found} found; use torchrun or accelerate launch")
    return accelerator
