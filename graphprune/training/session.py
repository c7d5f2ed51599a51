"""A training session: the model, optimizer, teacher and data that stay the same while it runs, and where it is."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from graphprune.errors import UsageError
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place, place_nodes
from graphprune.processes import process_count
from graphprune.running.devices import choose_device, make_current
from graphprune.training.adapters import Trainee, adapted, whole
from graphprune.training.distributed import is_sharded, shard
from graphprune.training.divergence import Watch
from graphprune.training.execution.choice import choose_checkpoint, free_bytes
from graphprune.training.execution.compiled import missing_compiler
from graphprune.training.execution.way import Way
from graphprune.training.grid_adapters import on_grids
from graphprune.training.objective.head import split_head
from graphprune.training.objective.objective import Objective
from graphprune.training.objective.predictor import Predictor
from graphprune.training.objective.routing import routed_form
from graphprune.training.objective.sums import Blend
from graphprune.training.objective.teacher import DTYPES, Teacher, make_teacher
from graphprune.training.optimizer.adamw import AdamW, make_adamw
from graphprune.training.optimizer.moments import carried_moments, write_moments
from graphprune.training.options import LoraOptions, TrainOptions
from graphprune.training.saved_state import Snapshot

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer


class Stream(Protocol):
    """An endless sequence of packed rows that any position of can be asked for, always with the same answer."""

    @property
    def length(self) -> int: ...

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Rows start, start + 1, ...: ids and labels, int64 [count, length]; a label of -100 does not count."""


@dataclass(frozen=True, eq=False)
class Session:
    """All that stays the same while a training runs."""

    options: TrainOptions
    stream: Stream
    accelerator: "Accelerator"
    trainee: Trainee
    model: Predictor
    objective: Any
    optimizer: "AcceleratedOptimizer"
    teacher: Teacher | None
    words: int | None
    held_out: Tensor | None
    folder: Path | None

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
    """Where a training is: the steps done, what is known of the loss, and the best weights unless the first are."""

    step: int = 0
    watch: Watch = field(default_factory=Watch)
    loss: float | None = None
    best: Snapshot | Path | None = None


def prepare(
    accelerator: "Accelerator",
    graph: Graph,
    options: TrainOptions,
    stream: Stream,
    teacher: Graph | None,
    held_out: Tensor | None,
    folder: Path | None,
) -> Session:
    device = accelerator.device
    sharded = is_sharded(options, accelerator)
    teach = None
    if options.distill > 0 and teacher is not None:
        teach = make_teacher(teacher, options, stream.length, device)
    if sharded:
        trainee = whole(place_nodes(graph, device))
    else:
        here = place(graph, device)
        trainee = whole(here) if options.lora is None else with_adapters(here, options.lora, options.seed)
    words = vocabulary_size(trainee.graph)
    way = choose_way(trainee, options, stream.length, device, sharded)
    run = routed_form(trainee.graph, options.balance / options.accumulate, options.routing)
    model = Predictor(run, options.rows, stream.length, plain=options.lora is None, way=way)
    if options.compile and options.lora is not None:  # layers that others have wrapped stay as they are
        model.compile()
    if sharded:
        trainee = shard(trainee, model, device)
    made = make_adamw(trainee.trainable.values(), options)
    if options.in_backward and isinstance(made, AdamW):
        step_in_backward(trainee, made, accelerator)
    objective: Any = Objective(model, words or 1, Blend(options.distill, options.temperature), teach)
    objective, optimizer = (objective, wrapped(made)) if sharded else accelerator.prepare(objective, made)
    carried = carried_moments(graph) if options.moments == "carry" and options.lora is None else None
    if carried is not None:
        write_moments(optimizer, trainee.trainable, carried)
    return Session(options, stream, accelerator, trainee, model, objective, optimizer, teach, words, held_out, folder)


def with_adapters(graph: Graph, options: LoraOptions, seed: int) -> Trainee:
    """Adapters on the weights as they are, or on their grids."""
    return on_grids(graph, options, seed) if options.block else adapted(graph, options, seed)


def step_in_backward(trainee: Trainee, optimizer: AdamW, accelerator: "Accelerator") -> None:
    """Let backward update each weight; raises UsageError where gradients come from several processes."""
    if accelerator.num_processes > 1:
        raise UsageError("in_backward=true steps before processes have met; start one, or leave it out")
    for parameter in trainee.trainable.values():
        parameter.register_post_accumulate_grad_hook(optimizer.update_and_free)  # type: ignore[no-untyped-call]


def choose_way(trainee: Trainee, options: TrainOptions, length: int, device: torch.device, sharded: bool) -> Way:
    """How forward and backward are run: by the options, and by what is free once gradients and moments are there."""
    compiled = options.compile and options.lora is None and missing_compiler(device) is None
    narrow = None if options.precision == "none" else DTYPES[options.precision]
    way = Way(options.checkpoint, compiled, sharded, narrow)
    if options.checkpoint != "auto":
        return way
    split = split_head(trainee.graph) if options.lora is None else None
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
