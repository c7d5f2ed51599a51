"""Training: a graph and rows of tokens in, a graph with other weights out."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from graphprune.errors import TrainingError, UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.placement import real_weights
from graphprune.running.devices import memory_errors
from graphprune.training.distributed import agreed
from graphprune.training.loop import run
from graphprune.training.metrics import Report, no_report
from graphprune.training.objective.teacher import require_same_vocabulary
from graphprune.training.optimizer.moments import KINDS, Moments, read_moments
from graphprune.training.options import TrainOptions
from graphprune.training.resumption import describe, restore, resume
from graphprune.training.saved_state import read_snapshot
from graphprune.training.session import Session, State, Stream, make_accelerator, prepare
from graphprune.weights.patterns import is_pattern


@dataclass(frozen=True, eq=False)
class Trained:
    """The trained graph, the steps and tokens it took, the last training loss, the held-out loss of these weights and
    after how many steps they were reached. Losses are in nats per token, None where not measured."""

    graph: Graph
    steps: int
    tokens: int
    loss: float | None
    held_out: float | None
    best_step: int


def train(
    graph: Graph,
    options: TrainOptions,
    stream: Stream,
    teacher: Graph | None = None,
    held_out: Tensor | None = None,
    folder: Path | None = None,
    report: Report = no_report,
) -> Trained:
    """Train a language model on rows of a stream; the graph that is given stays as it was.

    The result carries the optimizer's moments as companions. `held_out` [tokens] is watched every `eval_every` steps.
    Under a launcher all processes call this alike, each takes its own rows, and the first writes and reports.
    In `folder` the state is saved, and the same call continues from it: on the CPU in float32 the weights end up the
    same to the last bit. Raises UsageError for what does not fit together or another training's folder, TrainingError
    for divergence and for want of memory or disk.
    """
    require_trainable(graph, options, stream, teacher)
    size = f" at {options.rows} rows of {stream.length} tokens"
    with memory_errors(memory_advice(options), size, TrainingError):
        accelerator = make_accelerator(options)
        graph = agreed(real_weights(graph), accelerator.device)
        session = prepare(accelerator, graph, options, stream, teacher, held_out, folder)
        identity = describe(session, graph) if folder is not None else {}
        state, metrics = resume(session, identity)
        try:
            told = report if session.accelerator.is_main_process else no_report
            state = run(session, state, metrics, identity, told)
        finally:
            metrics.close()
        return finish(session, state, graph)


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


def finish(session: Session, state: State, graph: Graph) -> Trained:
    """The result: the best weights where they are wanted and known, otherwise the last."""
    options, watch = session.options, state.watch
    watched = session.held_out is not None and options.eval_every > 0
    tokens = state.step * session.tokens_per_step
    if watched and options.keep == "best" and watch.best_step < state.step:
        if state.best is None:
            return Trained(before_training(session, graph), state.step, tokens, state.loss, watch.best, 0)
        restore(session, read_snapshot(state.best)[0] if isinstance(state.best, Path) else state.best)
        return Trained(build(session, graph), state.step, tokens, state.loss, watch.best, watch.best_step)
    held = watch.last if watched else None
    return Trained(build(session, graph), state.step, tokens, state.loss, held, state.step)


def before_training(session: Session, graph: Graph) -> Graph:
    """What the first step began with: the given graph, or what adapters that add nothing make of it."""
    if session.trainee.forget is None:
        return graph
    session.trainee.forget()
    return build(session, graph)


def build(session: Session, graph: Graph) -> Graph:
    """The given graph with the weights of now, and as companions their moments and what else training gives them.

    Patterns are kept; others, of weights that have changed, are left behind.
    """
    old, new = graph.parameters(), dict[str, Tensor]()
    for name, tensor in session.trainee.merged().items():
        value = tensor.to(old[name].device, copy=True)
        new[name] = torch.nn.Parameter(value, old[name].requires_grad)
    result = graph.with_tensors(new)
    moments = Moments({}) if session.options.lora else read_moments(session.optimizer, session.trainee.trainable)
    made = {**moments.tensors, **session.trainee.companions()}
    here = {kind: {n: t.to(old[n].device) for n, t in part.items()} for kind, part in made.items()}
    others = {
        kind: {name: t for name, t in part.items() if name not in new or is_pattern(kind)}
        for kind, part in graph.companions.items()
        if kind not in KINDS
    }
    both = {kind: {**others.get(kind, {}), **here.get(kind, {})} for kind in {**others, **here}}
    result = replace(result, companions={kind: part for kind, part in both.items() if part})
    return result.remember("moments", {"updates": moments.updates})


def memory_advice(options: TrainOptions) -> str:
    """What to lower where a training does not fit in memory."""
    narrow = "" if options.precision != "none" else ", or use precision=bf16"
    return f"lower rows (and raise accumulate by as much), lower length{narrow}"
