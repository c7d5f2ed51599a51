"""Run state: what a run of several passes keeps on disk, so that it goes on after it was killed, at any moment."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graphprune.errors import InvariantError, UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Lineage, Step
from graphprune.ir.placement import unshared
from graphprune.ir.plan import plan_of
from graphprune.rewriting.apply import apply
from graphprune.weights.stored import memory_of, store

_IDENTITY, _LOCK, _STATE, _PASS = "run.json", "lock", "after-", "pass-"
METRICS = "metrics.jsonl"
_PARTS = "parts.json"


@contextlib.contextmanager
def open_run(folder: Path, identity: Mapping[str, object], restart: bool = False) -> Iterator[bool]:
    """Take the folder of a run for this process; gives whether there is something to go on with.

    `identity` is plain data: all that the result depends on. A folder in which nothing was kept is removed at the end.
    Raises UsageError where it belongs to a run with another identity, with what changed, or where a process that is
    alive works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"another process works in {folder}; wait for it, or give another -o OUT") from error
        if restart:
            clear(folder)
        check_identity(folder, identity)
        try:
            yield holds_state(folder)
        finally:
            if not holds_state(folder):
                shutil.rmtree(folder, ignore_errors=True)


def earlier_seconds(folder: Path, began: float) -> float:
    """Seconds of the interrupted parts of this run, each up to what it last kept; notes that another began.

    `began` is when this one did, as time.time() says it.
    """
    path, earlier = folder / _PARTS, 0.0
    if path.is_file() and holds_state(folder):
        known = json.loads(path.read_text(encoding="utf-8"))
        kept = [file.stat().st_mtime for file in folder.rglob("*") if file.name not in (_LOCK, _PARTS)]
        earlier = known["earlier"] + max(0.0, max(kept) - known["began"])
    write_beside(path, json.dumps({"earlier": earlier, "began": began}) + "\n")
    return earlier


def holds_state(folder: Path) -> bool:
    """Whether a pass has ended there, or begun to keep something of its own."""
    own = [path for prefix in (_STATE, _PASS) for path in folder.glob(f"{prefix}*")]
    return any(any(path.iterdir()) for path in own)


def clear(folder: Path) -> None:
    """Forget everything but the lock."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def check_identity(folder: Path, identity: Mapping[str, object]) -> None:
    """Compare with the run that the folder belongs to, or write whose it is. Raises UsageError with the difference."""
    path = folder / _IDENTITY
    now = json.loads(json.dumps(identity))
    if not path.is_file():
        write_beside(path, json.dumps(now, indent=1) + "\n")
        return
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is damaged; --restart discards the old state and begins again") from error
    changed = differences(flatten(old), flatten(now))
    if changed:
        raise UsageError(
            f"the unfinished run in {folder} was another one: {'; '.join(changed)}; give the same options to go on, or "
            "--restart to discard it and begin again"
        )


def flatten(value: object, key: str = "") -> dict[str, object]:
    """Nested plain data as dotted keys."""
    if isinstance(value, Mapping):
        return {
            k: v for name, item in value.items() for k, v in flatten(item, f"{key}.{name}" if key else name).items()
        }
    return {key: value}


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """`key: old -> new` for every key that differs."""
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key}: {print_plain(old.get(key))} -> {print_plain(new.get(key))}" for key in keys]


def print_plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def pass_folder(folder: Path, index: int) -> Path:
    """The folder that the pass of this index has of its own."""
    path = folder / f"{_PASS}{index}"
    path.mkdir(exist_ok=True)
    return path


def save_state(folder: Path, index: int, graph: Graph) -> None:
    """Keep the graph that the pass of this index returned, whole or not at all, and forget all that came before.

    Raises InvariantError where the memo holds what JSON does not.
    """
    new, path = folder / f"new-{index}", folder / f"{_STATE}{index}"
    for old in (new, path):
        shutil.rmtree(old, ignore_errors=True)
    new.mkdir()
    save_file(each_once(graph.tensors()), new / "tensors.safetensors")
    flat = {f"{kind}/{name}": t for kind, tensors in graph.companions.items() for name, t in tensors.items()}
    save_file(each_once(flat), new / "companions.safetensors")
    (new / "graph.json").write_text(json.dumps(describe(graph)), encoding="utf-8")
    lines = [
        path.read_bytes() for path in (*metrics_files(folder), folder / f"{_PASS}{index}" / METRICS) if path.is_file()
    ]
    (new / METRICS).write_bytes(b"".join(lines))
    for file in new.iterdir():
        flush(file)
    new.rename(path)
    forget(folder, index)


def metrics_files(folder: Path) -> list[Path]:
    """The measurements, one JSON object a line, that the passes up to the newest state made."""
    states = sorted(folder.glob(f"{_STATE}*"), key=lambda path: int(path.name.removeprefix(_STATE)))
    return [path / METRICS for path in states[-1:]]


def describe(graph: Graph) -> dict[str, object]:
    """All of a graph that is not tensors, as plain data."""
    memo = dict(graph.memo)
    if json.loads(json.dumps(memo)) != memo:
        raise InvariantError("a pass left something in the memo that is no plain JSON data, so it cannot be kept")
    return {
        "plan": graph.lineage.plan.to_data(),
        "ids": dict(graph.lineage.ids),
        "notes": graph.notes,
        "memo": memo,
        "history": [asdict(step) for step in graph.history],
    }


def each_once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor once, under the first of its names, in memory of its own and as it is stored."""
    first = {id(tensor): name for name, tensor in reversed(list(tensors.items()))}
    names = set(first.values())
    return unshared({name: memory_of(tensor) for name, tensor in tensors.items() if name in names})


def load_state(folder: Path, source: Graph) -> tuple[int, Graph] | None:
    """The newest state and the index of the pass that left it; None where no pass has ended.

    `source` is the graph that the run began with: the plan of the state is applied to it, and the tensors take the
    place of those that the plan leaves. Raises UsageError where the state is damaged.
    """
    indices = [int(path.name.removeprefix(_STATE)) for path in folder.glob(f"{_STATE}*")]
    if not indices:
        return None
    index = max(indices)
    forget(folder, index)
    try:
        return index, read_state(folder / f"{_STATE}{index}", source)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"the state in {folder} is damaged ({error}); --restart discards it and begins again"
        ) from error


def read_state(path: Path, source: Graph) -> Graph:
    data = json.loads((path / "graph.json").read_text(encoding="utf-8"))
    lineage = Lineage(plan_of(data["plan"]), data["ids"])
    graph = apply(replace(source, companions={}), lineage.plan)
    graph = with_values(graph, load_tensors(path / "tensors.safetensors"))
    companions: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_tensors(path / "companions.safetensors").items():
        kind, _, parameter = name.partition("/")
        companions.setdefault(kind, {})[parameter] = tensor
    history = tuple(Step(**step) for step in data["history"])
    notes = tuple(data["notes"])
    return replace(graph, lineage=lineage, companions=companions, notes=notes, memo=data["memo"], history=history)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, each in memory of its own: how it is aligned can change the last bit of a product."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def with_values(graph: Graph, values: Mapping[str, Tensor]) -> Graph:
    """The graph with other values in its tensors, parameters staying parameters. Raises InvariantError.

    Values of a narrower type are those of weights that are only stored.
    """
    old = graph.tensors()
    wrong = next((n for n, t in values.items() if n not in old or old[n].shape != t.shape), None)
    if wrong is not None:
        raise InvariantError(f"the state kept has {wrong}, which does not fit the graph that its plan makes")
    tensors = {n: t.to(old[n].device) for n, t in values.items()}
    tensors = {n: t if t.dtype == old[n].dtype else store(t, old[n].dtype) for n, t in tensors.items()}
    return graph.with_tensors(
        {
            n: nn.Parameter(t, old[n].requires_grad) if isinstance(old[n], nn.Parameter) else t
            for n, t in tensors.items()
        }
    )


def forget(folder: Path, index: int) -> None:
    """Remove what a later state replaces: older states, half-written ones, the folders of passes that ended."""
    for path in folder.iterdir():
        prefix, _, number = path.name.rpartition("-")
        old = number.isdigit() and int(number) < index + (prefix != "after")
        if path.is_dir() and (prefix == "new" or old):
            shutil.rmtree(path, ignore_errors=True)


def write_beside(path: Path, text: str) -> None:
    """Write a file that is either whole or not there."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    flush(new)
    new.rename(path)


def flush(path: Path) -> None:
    """Have the file on the disk, so that a rename after it never names an empty one."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
