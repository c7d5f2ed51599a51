"""Training: a graph and rows of tokens in, a graph with other weights out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphprune.data.stream.mixture import Segment
from graphprune.errors import TrainingError, UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.placement import real_weights
from graphprune.running.devices import memory_errors
from graphprune.training.distributed import agreed
from graphprune.training.learning.domains import Domains, require_domains, segments_of
from graphprune.training.learning.learner import Learner
from graphprune.training.learning.results import build
from graphprune.training.loop import run
from graphprune.training.metrics import Report, no_report
from graphprune.training.objective.teacher import require_same_vocabulary
from graphprune.training.options import TrainOptions
from graphprune.training.resumption import describe, restore, resume
from graphprune.training.saved_state import read_snapshot
from graphprune.training.session import Session, State, Stream, make_accelerator, prepare


@dataclass(frozen=True, eq=False)
class Trained:
    """The trained graph, the steps and tokens it took, the last training loss, the held-out loss of these weights and
    after how many steps they were reached. Losses are in nats per token, None where not measured. `learned` is what the
    learner remembers, as plain data, and `told` what it says of it; `domains` the last loss on each domain, and
    `segments` what each weighed, from which row on."""

    graph: Graph
    steps: int
    tokens: int
    loss: float | None
    held_out: float | None
    best_step: int
    learned: Mapping[str, Any] = field(default_factory=dict)
    told: str = ""
    domains: Mapping[str, float] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()


def train(
    graph: Graph,
    options: TrainOptions,
    stream: Stream,
    teacher: Graph | None = None,
    held_out: Tensor | None = None,
    folder: Path | None = None,
    report: Report = no_report,
    learner: Learner | None = None,
    domains: Domains | None = None,
) -> Trained:
    """Train a language model on rows of a stream; the graph that is given stays as it was.

    A `learner` says what is trained and what is done beside it, in place of the one that the options stand for. Of a
    mixture, `domains` are measured one by one, and their weights may follow.

    The result carries the optimizer's moments as companions. `held_out` [tokens] is watched every `eval_every` steps.
    Under a launcher all processes call this alike, each takes its own rows, and the first writes and reports.
    In `folder` the state is saved, and the same call continues from it: on the CPU in float32 the weights end up the
    same to the last bit. Raises UsageError for what does not fit together or another training's folder, TrainingError
    for divergence and for want of memory or disk.
    """
    require_trainable(graph, options, stream, teacher)
    require_domains(domains, stream)
    size = f" at {options.rows} rows of {stream.length} tokens"
    with memory_errors(memory_advice(options), size, TrainingError):
        accelerator = make_accelerator(options)
        graph = agreed(real_weights(graph), accelerator.device)
        session = prepare(accelerator, graph, options, stream, teacher, held_out, folder, learner, domains)
        identity = describe(session, graph, learner) if folder is not None else {}
        session, state, metrics = resume(session, identity)
        try:
            told = report if session.accelerator.is_main_process else no_report
            session, state = run(session, state, metrics, identity, told)
        finally:
            metrics.close()
        return finish(session, state)


def require_trainable(graph: Graph, options: TrainOptions, stream: Stream, teacher: Graph | None) -> None:
    """Raise UsageError for what can not be trained."""
    if "logits" not in graph.outputs or "input_ids" not in graph.inputs:
        raise UsageError("only language models, from input_ids to logits, can be trained")
    narrow = next((name for name, p in graph.parameters().items() if p.dtype != torch.float32), None)
    if narrow is not None:
        raise UsageError(f"{narrow} is not in float32; capture with dtype=torch.float32, and train with precision=bf16")
    if stream.length < 2:
        raise UsageError(f"rows of {stream.length} token can not be trained on; give 2 or more")
    if options.distill > 0:
        if teacher is None:
            raise UsageError("distillation needs a teacher: pass the source, or set distill=0")
        require_same_vocabulary(teacher, graph)


def finish(session: Session, state: State) -> Trained:
    """The result: the best weights where they are wanted and known, otherwise the last."""
    options, watch = session.options, state.watch
    watched = session.held_out is not None and options.eval_every > 0
    if watched and options.keep == "best" and watch.best_step < state.step:
        if state.best is None:
            return result(session, before_training(session), state, watch.best, 0)
        restore(session, read_snapshot(state.best)[0] if isinstance(state.best, Path) else state.best)
        return result(session, build(session), state, watch.best, watch.best_step)
    return result(session, build(session), state, watch.last if watched else None, state.step)


def result(session: Session, graph: Graph, state: State, held_out: float | None, best_step: int) -> Trained:
    """What the learner makes of a graph with weights, and what is known of them."""
    tokens, made = state.step * session.tokens_per_step, session.learning.finish(graph)
    return Trained(
        made,
        state.step,
        tokens,
        state.loss,
        held_out,
        best_step,
        session.learning.state().plain,
        session.learning.told(),
        state.domains,
        segments_of(session.stream),
    )


def before_training(session: Session) -> Graph:
    """What the first step began with: the given graph, or what adapters that add nothing make of it."""
    if session.trainee.forget is None:
        return session.graph
    session.trainee.forget()
    return build(session)


def memory_advice(options: TrainOptions) -> str:
    """What to lower where a training does not fit in memory."""
    narrow = "" if options.precision != "none" else ", or use precision=bf16"
    return f"lower rows (and raise accumulate by as much), lower length{narrow}"
