"""The training loop: steps, evaluations and saves in their order.

It is the same for one process and many: a step's rows are numbered, process p of P takes its own, and gradients,
clipping and precision are accelerate's. Everything that decides how the run goes on is in `State`, which is saved.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from graphprune.data.stream.mixture import Mixture
from graphprune.errors import TrainingError
from graphprune.ir.graph import Graph
from graphprune.running.perplexity import perplexity, stream_perplexity
from graphprune.training.distributed import full
from graphprune.training.divergence import require_finite, require_progress, require_sense
from graphprune.training.learning.domains import moved, segments_of
from graphprune.training.learning.results import compacted
from graphprune.training.metrics import Line, Measured, Metrics, Moment, Report
from graphprune.training.objective.sums import counted_tokens
from graphprune.training.optimizer.adamw import AdamW, set_rate
from graphprune.training.resumption import save_training, snapshot
from graphprune.training.saved_state import Snapshot, write_snapshot
from graphprune.training.session import Session, State

if TYPE_CHECKING:
    from accelerate import Accelerator


def run(
    session: Session, state: State, metrics: Metrics, identity: Mapping[str, object], report: Report
) -> tuple[Session, State]:
    """The steps that are left; the session is another one after each cut of the learner."""
    options = session.options
    if state.step == 0 and session.held_out is not None and options.eval_every:
        state = evaluate(session, state)
    while state.step < options.steps:
        metrics.waiting.append(advance(session, state.step))
        state = replace(state, step=state.step + 1)
        plan = session.learning.after_step(state.step)
        if plan is not None:
            session = compacted(session, plan)
            state = replace(state, watch=state.watch.begun_again(state.step), best=None, cuts=(*state.cuts, plan))
        last = state.step == options.steps
        move = session.domains is not None and due(state.step, session.domains.weighing.reweigh, last=False)
        if move:
            state = replace(state, domains=domain_losses(session))
            session = moved(session, state.step, state.domains)
        look = session.held_out is not None and due(state.step, options.eval_every, last)
        save = session.folder is not None and due(state.step, options.save_every, last, always=True)
        if look or save or last or move or metrics.due():
            state = read(session, state, metrics, look, report)
        if save:
            save_training(session, state, metrics, identity)
    return session, state


def due(step: int, every: int, last: bool, always: bool = False) -> bool:
    """Say whether what happens every so many steps happens now; the last step counts too."""
    return (last and (always or every > 0)) or (every > 0 and step % every == 0)


def advance(session: Session, step: int) -> Measured:
    """One step: the gradient of the mean over every token that counts in it, clipped, and the update."""
    options, accelerator, learning = session.options, session.accelerator, session.learning
    rate = options.rate(step)
    set_rate(session.optimizer, rate)
    parts = list(own_rows(session, step))
    tokens = max(1.0, together(accelerator, sum(counted_tokens(labels) for _, labels in parts), "sum"))
    sums, said = torch.zeros(3, device=accelerator.device), dict[str, Tensor]()
    for part, (ids, labels) in enumerate(parts):
        whole_step = part == len(parts) - 1
        sync = contextlib.nullcontext() if whole_step else accelerator.no_sync(session.objective)
        with sync, seeded(session, step, part):
            ids, labels = ids.to(accelerator.device), labels.to(accelerator.device)
            taught = None if session.teacher is None else session.teacher(ids)
            learning.before_forward(step, part)
            with accelerator.autocast():
                loss, entropy, divergence, terms = session.objective(ids, labels, taught)
            # Processes average their gradients; each has its share of one sum.
            whole = loss * (accelerator.num_processes / tokens)
            for name, penalty in learning.penalties(step).items():
                whole = whole + penalty / len(parts)
                said[name] = said.get(name, 0) + penalty.detach() / len(parts)
            accelerator.backward(whole)
            sums += torch.stack([loss.detach(), entropy, divergence])
            said |= {name: said.get(name, 0) + term / tokens for name, term in terms.items()}
    learning.after_backward(step)
    norm = gradient_norm(session)
    session.optimizer.step()
    session.optimizer.zero_grad()
    values = torch.cat([accelerator.reduce(sums, "sum") / tokens, norm.detach().reshape(1).to(sums)])
    return Measured(step + 1, values, rate, session.tokens_per_step, said, learning.remarks())


def gradient_norm(session: Session) -> Tensor:
    """The norm of all gradients, which are clipped; of those of the last backward where it has stepped with them."""
    made = session.optimizer.optimizer
    if session.options.in_backward and isinstance(made, AdamW):
        return made.take_norm()
    apart = session.learning.rates()
    trainable = [parameter for name, parameter in session.trainee.trainable.items() if name not in apart]
    return full(session.accelerator.clip_grad_norm_(trainable, session.options.clip or math.inf))


def together(accelerator: "Accelerator", value: float, how: str) -> float:
    """The sum or mean of a number over the processes; a single process does not wait for its device."""
    if accelerator.num_processes == 1:
        return value
    return float(accelerator.reduce(torch.tensor(value, dtype=torch.float64, device=accelerator.device), how))


def own_rows(session: Session, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The parts of a step that this process computes; all processes together take the same rows as one would."""
    options, processes = session.options, session.accelerator.num_processes
    first = options.first_row + step * options.rows * options.accumulate * processes
    for part in range(options.accumulate):
        number = part * processes + session.accelerator.process_index
        yield session.learning.lead.rows(*session.stream.rows(first + number * options.rows, options.rows))


@contextlib.contextmanager
def seeded(session: Session, step: int, part: int) -> Iterator[None]:
    """Random numbers, which only dropout needs, that depend on nothing but the seed and the place in the run."""
    options = session.options
    if not session.learning.draws:
        yield
        return
    place = (options.first_step + step) * options.accumulate + part
    number = place * session.accelerator.num_processes + session.accelerator.process_index
    with torch.random.fork_rng():
        torch.manual_seed(options.seed * 1_000_003 + number)
        yield


def read(session: Session, state: State, metrics: Metrics, look: bool, report: Report) -> State:
    """Read what was measured, check it, evaluate where it is due, write and report it."""
    options, lines = session.options, list[Line]()
    rows, speed = metrics.take()
    try:
        for measured, values in rows:
            require_finite(values[0], values[3], measured.step, options)
            lines.append(describe_step(session, measured, values, speed))
            state = note(session, state, measured.step, values)
        if look:
            state = evaluate(session, state)
            metrics.restart()
            lines[-1]["held_out"] = state.watch.last
        if session.domains is not None and (look or due(state.step, session.domains.weighing.reweigh, last=False)):
            lines[-1] |= {"domains": dict(state.domains), "weights": list(segments_of(session.stream)[-1].weights)}
    finally:
        metrics.write(lines)
    if session.accelerator.is_main_process:
        left = metrics.seconds(options.steps - state.step)
        held = state.watch.last if session.held_out is not None and options.eval_every else None
        report(Moment(state.step, options.steps, state.loss or 0.0, held, speed, left, lines))
    return state


def describe_step(session: Session, measured: Measured, values: Sequence[float], speed: float) -> Line:
    """The line of metrics of a step."""
    loss, entropy, divergence, norm = values
    line: Line = {
        "step": session.options.first_step + measured.step,
        "stage": session.options.stage,
        "tokens": measured.step * session.tokens_per_step,
        "loss": loss,
        "ce": entropy,
        "kd": divergence if session.teacher is not None else None,
        "lr": measured.rate,
        "grad_norm": norm if math.isfinite(norm) else None,
        "tokens_per_s": round(speed, 1),
        "held_out": None,
    }
    if measured.terms:
        line["terms"] = {name: float(term) for name, term in measured.terms.items()}
    if measured.remarks:
        line["learner"] = dict(measured.remarks)
    return line


def note(session: Session, state: State, step: int, values: Sequence[float]) -> State:
    """The state with the measurements of a step; windows of them are evaluations where no text is held out."""
    options, watch = session.options, state.watch.trained(values[1])
    require_sense(watch, step, session.guess, options)
    if watch.window is not None and (session.held_out is None or not options.eval_every):
        watch = watch.evaluated(step, watch.window, options.divergence)
        require_progress(watch, step, options)
    return replace(state, loss=values[0], watch=watch)


def evaluate(session: Session, state: State) -> State:
    """Measure the held-out loss, and keep the weights where it is the best so far."""
    options, accelerator = session.options, session.accelerator
    assert session.held_out is not None
    text = session.held_out[: options.eval_tokens]
    with accelerator.autocast(), without_dropout(session.trainee.graph):
        value = held_out_loss(session, text)
    if session.domains is not None:
        state = replace(state, domains=domain_losses(session))
    loss = together(accelerator, value, "mean")
    if not math.isfinite(loss):
        raise TrainingError(f"the held-out loss is {loss} at step {state.step}; lower lr (now {options.lr:g})")
    watch = state.watch.evaluated(state.step, loss, options.divergence)
    require_progress(watch, state.step, options)
    state = replace(state, watch=watch)
    if watch.best_step == state.step > 0 and options.keep == "best":
        return replace(state, best=keep(session, snapshot(session, state.step)))
    return state


@contextlib.contextmanager
def without_dropout(graph: Graph) -> Iterator[None]:
    """What the weights compute by themselves: the dropout of adapters, which draws anew each time, is off."""
    active = [m for m in graph.module.modules() if isinstance(m, nn.Dropout) and m.training]
    try:
        for module in active:
            module.eval()
        yield
    finally:
        for module in active:
            module.train()


def domain_losses(session: Session) -> dict[str, float]:
    """The loss on each domain's held-out text, in nats a token."""
    assert session.domains is not None
    assert isinstance(session.stream, Mixture)
    most = max(session.stream.length, session.options.eval_tokens // len(session.domains.texts))
    with session.accelerator.autocast(), without_dropout(session.trainee.graph):
        found = [held_out_loss(session, text[:most]) for text in session.domains.texts]
    return {
        name: together(session.accelerator, value, "mean")
        for name, value in zip(session.stream.names, found, strict=True)
    }


def held_out_loss(session: Session, text: Tensor) -> float:
    """In nats per token; a model in shards is whole in none of its processes and is run as it is trained."""
    window, rows, lead = session.stream.length, session.options.rows, session.learning.lead
    if session.model.layers:
        logits = lead.around(session.model.logits)
        return stream_perplexity(logits, text, window, rows, vocabulary=session.words).nats_per_token
    measured = session.learning.measured(session.trainee.graph)
    return perplexity(measured, text, window, rows, lead=lead).nats_per_token


def keep(session: Session, best: Snapshot) -> Snapshot | Path:
    """Keep the best weights: on the disk where there is a folder, otherwise in memory."""
    if session.folder is None:
        return best
    if session.accelerator.is_main_process:
        write_snapshot(session.folder, f"best-{best.step:08d}", best, {})
    return session.folder / f"best-{best.step:08d}"
