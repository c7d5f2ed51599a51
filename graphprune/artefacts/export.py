"""Export: a graph as checked artefacts, all of them or none."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphprune.artefacts import parity
from graphprune.artefacts.outputs import write_record
from graphprune.artefacts.staging import staging
from graphprune.budget.backend import Backend
from graphprune.budget.installed import load_backend
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.progress import Progress, no_progress
from graphprune.running import comparison


def export(
    graph: Graph, out: Path, backends: Sequence[str] = ("huggingface", "onnx"), overwrite: bool = False
) -> tuple[comparison.Check, ...]:
    """Write a graph with each backend (a spec), load every artefact in a fresh process, and compare it.

    `out` appears complete or not at all. Raises UsageError where it exists without `overwrite`, ExportError where
    a backend cannot write the graph, ParityError where an artefact does not compute the same.
    """
    writers = load_backends(backends)
    with staging(out, overwrite) as folder:
        write_all(writers, graph, folder)
        parity.save_reference(graph, folder)
        follow_umask(folder)
        checks = parity.check(folder)
        comparison.require(checks)
        write_record(folder, record_files(folder))
    return tuple(checks)


def load_backends(specs: Sequence[str]) -> tuple[Backend, ...]:
    """The backends by their specs. Raises RegistryError for an unknown one, UsageError where two write to one place."""
    found = tuple(map(load_backend, specs))
    places = [backend.place or backend.name for backend in found]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise UsageError(f"two backends write to {twice}; name each once, or give one another folder=...")
    return found


def write_all(backends: Sequence[Backend], graph: Graph, folder: Path, progress: Progress = no_progress) -> None:
    """Write a graph with every backend. Raises ExportError where one cannot."""
    for index, backend in enumerate(backends):
        progress("writing", index, len(backends), backend.name)
        backend.export(graph, folder)


def follow_umask(folder: Path) -> None:
    """Give every file the mode that the user's umask says: some libraries write for the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def record_files(folder: Path) -> list[dict[str, Any]]:
    """Every file with its size and hash."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": digest(path)}
        for path in paths
    ]


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
