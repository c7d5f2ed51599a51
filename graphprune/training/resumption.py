"""Resumption: what of a session is saved, and how a killed one goes on as if it had not been."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphprune.ir.graph import Graph
from graphprune.ir.plan import plan_of
from graphprune.spec import print_spec
from graphprune.training.distributed import fill
from graphprune.training.divergence import Watch
from graphprune.training.learning.domains import segments_of, with_segments
from graphprune.training.learning.learner import Kept, Learner
from graphprune.training.learning.results import compacted
from graphprune.training.metrics import Metrics
from graphprune.training.optimizer.moments import read_moments, to_cpu, write_moments
from graphprune.training.saved_state import (
    Facts,
    Snapshot,
    fingerprint,
    hash_tensors,
    latest,
    read_snapshot,
    require_same,
    save_state,
)
from graphprune.training.session import Session, State

LEARNED = "learned/"  # what the names of a learner's own tensors begin with in a state


def snapshot(session: Session, step: int) -> Snapshot:
    """The weights and moments as they are now."""
    trainable = session.trainee.trainable
    weights = {name: to_cpu(parameter) for name, parameter in trainable.items()}
    kept = session.learning.state().tensors
    weights |= {f"{LEARNED}{name}": to_cpu(tensor) for name, tensor in kept.items()}
    return Snapshot(step, weights, read_moments(session.optimizer, trainable))


def save_training(session: Session, state: State, metrics: Metrics, identity: Mapping[str, object]) -> None:
    """Save everything that the rest of the run depends on."""
    now, scaler = snapshot(session, state.step), session.accelerator.scaler
    facts: Facts = {
        "identity": identity,
        "watch": dataclasses.asdict(state.watch),
        "loss": state.loss,
        "best": state.best.name if isinstance(state.best, Path) else None,
        "metrics": metrics.size,
        "scaler": scaler.state_dict() if scaler is not None else None,
        "learned": session.learning.state().plain,
        "cuts": [plan.to_data() for plan in state.cuts],
        "segments": segments_of(session.stream),
        "domains": state.domains,
    }
    if session.accelerator.is_main_process and session.folder is not None:
        save_state(session.folder, now, facts)
    session.accelerator.wait_for_everyone()


def describe(session: Session, graph: Graph, learner: Learner | None = None) -> dict[str, object]:
    """What two runs must have in common for one to go on where the other was killed."""
    stream, held = session.stream, session.held_out
    facts = {name: getattr(stream, name, None) for name in ("length", "seed", "tokens_per_epoch", "fingerprint")}
    own: dict[str, object] = {} if learner is None else {"learner": print_spec(learner)}
    if session.domains is not None:
        texts = {str(place): text for place, text in enumerate(session.domains.texts)}
        own["domains"] = {"held_out": hash_tensors(texts), **dataclasses.asdict(session.domains.weighing)}
    return own | {
        "options": session.options.plain(),
        "data": {name: value for name, value in facts.items() if isinstance(value, (int, str))},
        "held_out": None if held is None else hash_tensors({"tokens": held}),
        "processes": session.accelerator.num_processes,
        "weights": fingerprint(graph),
    }


def resume(session: Session, identity: Mapping[str, object]) -> tuple[Session, State, Metrics]:
    """The session and state that a run in this folder left, or new ones."""
    folder, options = session.folder, session.options
    path = latest(folder) if folder is not None else None
    main = folder if session.accelerator.is_main_process else None
    if path is None or folder is None:
        return session, State(), Metrics(main, 0, options.tensorboard)
    saved, facts = read_snapshot(path)
    require_same(folder, facts["identity"], identity)
    session = with_segments(session, facts.get("segments", ()))
    cuts = tuple(map(plan_of, facts.get("cuts", ())))
    for plan in cuts:
        session = compacted(session, plan)
    restore(session, saved, facts.get("learned", {}))
    if session.accelerator.scaler is not None and facts["scaler"]:
        session.accelerator.scaler.load_state_dict(facts["scaler"])
    best = folder / facts["best"] if facts["best"] else None
    purge = options.first_step + saved.step + 1
    metrics = Metrics(main, facts["metrics"], options.tensorboard, purge)
    watch, domains = Watch(**facts["watch"]), facts.get("domains", {})
    return session, State(saved.step, watch, facts["loss"], best, cuts, domains), metrics


def restore(session: Session, saved: Snapshot, learned: Mapping[str, Any] | None = None) -> None:
    """Put weights and moments back, and what the learner remembers: its tensors, and as plain data what is known, or
    else what it has now. The values are copied, so that memory is aligned as it was."""
    for name, parameter in session.trainee.trainable.items():
        fill(parameter, saved.weights[name])
    write_moments(session.optimizer, session.trainee.trainable, saved.moments)
    tensors = {n.removeprefix(LEARNED): t for n, t in saved.weights.items() if n.startswith(LEARNED)}
    session.learning.load(Kept(tensors, session.learning.state().plain if learned is None else learned))
