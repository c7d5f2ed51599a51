"""The state of a training on disk: written beside, made durable, renamed; a killed run goes on from the last one.

    FOLDER/state-00000120/   weights.safetensors, moments.safetensors, state.json
    FOLDER/best-00000100/    weights.safetensors, moments.safetensors

A folder of either name is complete. At most two states exist, and that only while one takes the other's place.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from graphprune.errors import TrainingError, UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import PlanData
from graphprune.training.optimizer.moments import KINDS, Moments

_WRITING = "writing-"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The trained tensors by name and the moments, on the CPU, after `step` steps."""

    step: int
    weights: Mapping[str, Tensor]
    moments: Moments


class Facts(TypedDict):
    """What is saved beside the tensors of a state: whose it is, and all that the rest of the run depends on."""

    identity: Mapping[str, object]
    watch: dict[str, Any]
    loss: float | None
    best: str | None
    metrics: int
    scaler: dict[str, float] | None
    learned: NotRequired[Mapping[str, Any]]
    cuts: NotRequired[list[PlanData]]
    segments: NotRequired[Sequence[tuple[int, Sequence[float]]]]
    domains: NotRequired[Mapping[str, float]]


def write_snapshot(folder: Path, name: str, snapshot: Snapshot, facts: Mapping[str, object]) -> Path:
    """Write FOLDER/NAME in one go: it is there whole, or not at all. Raises TrainingError where the disk says no."""
    place, final = folder / f"{_WRITING}{name}", folder / name
    flat = {f"{kind}/{key}": t for kind, part in snapshot.moments.tensors.items() for key, t in part.items()}
    text = {"format": _FORMAT, "step": snapshot.step, "updates": snapshot.moments.updates, **facts}
    with disk_errors(folder):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        save_file(dict(snapshot.weights), place / "weights.safetensors")
        save_file(flat, place / "moments.safetensors")
        (place / "state.json").write_text(json.dumps(text, allow_nan=False), encoding="utf-8")
        for path in (*place.iterdir(), place):
            make_durable(path)
        shutil.rmtree(final, ignore_errors=True)
        place.rename(final)
        make_durable(folder)
    return final


def read_snapshot(path: Path) -> tuple[Snapshot, Facts]:
    """A snapshot and the facts saved with it. Raises TrainingError for files that were damaged."""
    try:
        facts = json.loads((path / "state.json").read_text(encoding="utf-8"))
        weights, flat = read_tensors(path / "weights.safetensors"), read_tensors(path / "moments.safetensors")
        moments: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
        for key, tensor in flat.items():
            kind, _, name = key.partition("/")
            moments[kind][name] = tensor
        return Snapshot(facts["step"], weights, Moments(moments, facts["updates"])), facts
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); remove {path.parent} to train from the start") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping


def latest(folder: Path) -> Path | None:
    """The last complete state in a folder; what a killed run left half written is removed."""
    for path in folder.glob(f"{_WRITING}*"):
        shutil.rmtree(path, ignore_errors=True)
    return max(folder.glob("state-*"), default=None)


def save_state(folder: Path, snapshot: Snapshot, facts: Facts) -> None:
    """Save the state, then remove the ones before it and the bests that no state speaks of any more."""
    kept = {write_snapshot(folder, f"state-{snapshot.step:08d}", snapshot, facts).name, facts["best"]}
    for path in (*folder.glob("state-*"), *folder.glob("best-*")):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def require_same(folder: Path, before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Raise UsageError, with the difference, where a folder belongs to another training."""
    old, new = flatten(before), flatten(json.loads(json.dumps(now)))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if changed:
        shown = "; ".join(f"{key} was {old.get(key)}, is now {new.get(key)}" for key in changed[:5])
        more = f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise UsageError(f"{folder} holds another training: {shown}{more}; take it back, or train in another folder")


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested plain data as one level of dotted names."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def fingerprint(graph: Graph) -> str:
    """A hash of every parameter and companion, byte by byte: a run goes on only from where it began."""
    companions = {f"{kind}/{name}": t for kind, part in graph.companions.items() for name, t in part.items()}
    return hash_tensors({**graph.parameters(), **companions})


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """A short hash of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def make_durable(path: Path) -> None:
    """Return when the file or the entries of the folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """A failure to write as one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(f"cannot save the training in {folder}: {reason}; free some space there") from error
