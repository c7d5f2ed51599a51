"""Artefacts: run the backends, measure what they wrote, list the files."""

import hashlib
import importlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphprune.data.calibration import Text
from graphprune.data.tokens import load_tokenizer
from graphprune.errors import UsageError
from graphprune.ir.contract import rows_of_ids
from graphprune.ir.graph import Graph
from graphprune.measure import LARGEST_MEASURED, file_measures, speed_measures
from graphprune.options import Measure
from graphprune.output import folder_size
from graphprune.progress import Progress
from graphprune.running.observations import greedy
from graphprune.running.runners import graph_runner
from graphprune.spec import parse_spec

_SAMPLE_TOKENS = 48


@dataclass(frozen=True, eq=False)
class Artefacts:
    """What was written: the folder, its measurements, and whether it holds an ONNX decoder."""

    folder: Path
    measures: tuple[Measure, ...]
    onnx: bool

    def sample(self, text: Text | None, graph: Graph) -> str:
        """A prompt from the held-out text and how the ONNX model goes on from it; empty where there is none."""
        if not self.onnx or text is None or graph.source.files is None or len(text.held_out) < 16:
            return ""
        made = runtime().load(self.folder, "cpu").generate([prompt_of(text)], max_new_tokens=_SAMPLE_TOKENS)[0]
        return read_tokens(text, graph, made)

    def samples(self, text: Text | None, source: Graph, after: str) -> tuple[tuple[str, str], ...]:
        """How the source goes on from the same prompt, and `after`; empty without a sample, or for a large source."""
        if not after or text is None or source.parameter_count() > LARGEST_MEASURED:
            return ()
        with torch.no_grad():
            made, _ = greedy(graph_runner(source), torch.tensor([prompt_of(text)]), _SAMPLE_TOKENS)
        return (("before", read_tokens(text, source, made.tolist())), ("after", after))


def prompt_of(text: Text) -> list[int]:
    return ([] if text.bos is None else [text.bos]) + list(text.held_out[:16].tolist())


def read_tokens(text: Text, graph: Graph, made: Sequence[int]) -> str:
    """The prompt and what came after it, as text."""
    assert graph.source.files is not None
    return str(load_tokenizer(graph.source.files).decode(prompt_of(text) + list(made), skip_special_tokens=True))


def load_backends(specs: Sequence[str]) -> list[Any]:
    """The backends by their specs. Raises RegistryError for an unknown one, UsageError where two write to one place."""
    found = [parse_spec("backends", spec) for spec in specs]
    places = [getattr(backend, "place", backend.name) for backend in found]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise UsageError(f"two backends write to {twice}; name each once, or give one another folder=...")
    return found


def runtime() -> Any:
    """The onnxruntime runner; a backend, so it is found by name."""
    return importlib.import_module("graphprune.backends.runtime")


def export_all(backends: Sequence[Any], source: Graph, graph: Graph, folder: Path, progress: Progress) -> Artefacts:
    """Write with every backend, and measure files and speed beside the source's."""
    for index, backend in enumerate(backends):
        progress(f"writing {backend.name}", index, len(backends))
        backend.export(graph, folder)
    measures: tuple[Measure, ...] = ()
    if any(backend.name == "huggingface" for backend in backends):
        measures += file_measures(source.source.folder, folder)
    found = next((backend for backend in backends if backend.name in ("onnx", "ort")), None)
    decoder = found is not None and graph.source.kind == "decoder" and rows_of_ids(graph) == 1
    if decoder:
        measures += onnx_measures(found, source, folder, progress)
    return Artefacts(folder, measures, decoder)


def onnx_measures(backend: Any, source: Graph, folder: Path, progress: Progress) -> tuple[Measure, ...]:
    """Size and speed of the ONNX model; the source is exported too, in a folder that is removed, where it is small."""
    progress("measuring speed in onnxruntime", 0, 0)
    after = float(folder_size(folder / backend.place, "model.onnx*"))
    if source.parameter_count() > LARGEST_MEASURED:
        return (Measure("ONNX model", None, after, "bytes"),)
    run = runtime()
    with tempfile.TemporaryDirectory(prefix="graphprune-") as name:
        backend.export(source, Path(name))
        before = float(folder_size(Path(name) / backend.place, "model.onnx*"))
        speed = speed_measures(Path(name), folder, lambda path: run.load(path, "cpu"), run.tokens_per_second)
    return (Measure("ONNX model", before, after, "bytes"), *speed)


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
