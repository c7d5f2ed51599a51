"""Measures: what is measured of a model before and after: its cost, its files, its speed, its perplexity."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from graphprune.amounts import show_bytes
from graphprune.analysis.groups import Groups
from graphprune.artefacts.scratch import scratch_folder
from graphprune.budget.backend import Backend
from graphprune.budget.quantities import FileBytes
from graphprune.budget.targets import Target
from graphprune.context import fitting_run
from graphprune.data.calibration import Text
from graphprune.evaluation.measure import Measure
from graphprune.ir.contract import context_length, rows_of_ids
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place
from graphprune.progress import Progress, no_progress
from graphprune.pruning.sparsity.packed import count_nonzero, packed_bytes
from graphprune.running.devices import memory_errors
from graphprune.running.open_model import OpenModel
from graphprune.running.perplexity import Perplexity, perplexity
from graphprune.running.timing import Rate, rates_in_turns
from graphprune.weights.patterns import kept_entries

# Work beyond this takes minutes on a processor, and is left to `graphprune eval` and `bench`.
LARGEST_MEASURED = 300_000_000
_LARGEST_TIMED = 200_000_000  # two of them are open at once, beside both graphs
_WINDOW = 256
NO_FASTER = (
    "zeros make no file of these smaller and no processor faster: onnxruntime multiplies by them like by others; what "
    "gains is a runtime that packs them, such as 2:4 on a GPU (docs/methods/sparsity.md)"
)
_TIMED = 64, 32  # tokens of a prompt, and after it, of a run that is timed


def held_out_perplexity(
    graph: Graph, text: Text, device: torch.device, report: Callable[[int, int], None] | None = None
) -> Perplexity | None:
    """Perplexity on the held-out text; None where there is no more than a token of it. `report` is told of windows."""
    if len(text.held_out) < 2:
        return None
    here = graph if device.type == "cpu" else place(graph, device)
    with memory_errors("the model does not fit beside what it computes; give --device cpu"):
        size = text.held_out_bytes
        return perplexity(here, text.held_out, _WINDOW, bos=text.bos, text_bytes=size, lead=text.lead, progress=report)


def cost_measures(before: Groups, after: Groups) -> tuple[Measure, ...]:
    """The polynomials of both models at their present sizes."""
    old, new = before.sizes(), after.sizes()
    rows = (
        ("parameters", before.costs.parameters(old), after.costs.parameters(new)),
        ("multiplications per token", before.costs.macs_per_token(old), after.costs.macs_per_token(new)),
        ("cache bytes per token", before.costs.cache_bytes_per_token(old), after.costs.cache_bytes_per_token(new)),
    )
    return tuple(Measure(name, float(a), float(b), "bytes" if "bytes" in name else "") for name, a, b in rows if a)


def sparse_measures(source: Graph, graph: Graph) -> tuple[Measure, ...]:
    """Parameters that are not zero, and bytes with zeros packed; nothing where no weight has a pattern."""
    if not kept_entries(graph.companions):
        return ()
    dense = float(source.parameter_count() * (graph.source.dtype or torch.float32).itemsize)
    return (
        Measure("parameters that are not zero", float(count_nonzero(source)), float(count_nonzero(graph))),
        Measure("weights, zeros packed", dense, float(packed_bytes(graph)), "bytes"),
    )


def perplexity_measures(
    before: Perplexity | None, after: Perplexity | None, same_tokens: bool = True
) -> tuple[Measure, ...]:
    """Perplexity, which is of a token and left out where tokens differ, and bits per byte, which compare always."""
    if before is None or after is None:
        return ()
    perplexities = Measure("held-out perplexity", finite(before.perplexity), finite(after.perplexity))
    rows = [perplexities] if same_tokens else []
    if before.bits_per_byte is not None and after.bits_per_byte is not None:
        rows.append(Measure("held-out bits per byte", finite(before.bits_per_byte), finite(after.bits_per_byte)))
    return tuple(rows)


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def speed_measures(
    before: OpenModel,
    after: OpenModel,
    runtime: str,
    progress: Progress = no_progress,
    lengths: tuple[int, int] = _TIMED,
) -> tuple[Measure, ...]:
    """Tokens per second of both models, from runs in turns, for a prompt and new tokens of these lengths."""

    def report(done: int, runs: int) -> None:
        progress("measuring speed", done, runs, runtime)

    old, new = rates_in_turns((before, after), *lengths, report=report)
    names = (f"{runtime} prefill tokens/s", f"{runtime} decode tokens/s")
    return tuple(speed_measure(name, *pair) for name, pair in zip(names, zip(old, new, strict=True), strict=True))


def speed_measure(name: str, before: Rate, after: Rate) -> Measure:
    """Two rates as a row, which has no number where the runs of either are too far apart."""
    spread = max(before.spread or 0.0, after.spread or 0.0)
    if before.steady and after.steady:
        note = f"median of {after.runs} runs, spread {spread:.0%}"
        return Measure(name, before.value, after.value, "", after.runs, spread, note)
    note = f"not told: {after.runs} runs were {spread:.0%} apart; `graphprune bench OUT` measures again"
    return Measure(name, None, None, "", after.runs, spread, note)


def artefact_measures(
    backends: Sequence[Backend], source: Graph, graph: Graph, folder: Path, progress: Progress
) -> tuple[Measure, ...]:
    """Files and speed of what the backends wrote, beside the source's."""
    checkpoint = next((backend for backend in backends if not backend.place), None)
    files = file_measures(checkpoint, source.source.folder, folder) if checkpoint else ()
    running = running_decoder(backends, graph)
    return (*files, *(running_measures(running, source, folder, progress) if running else ()))


def file_measures(backend: Backend, before: Path | None, after: Path) -> tuple[Measure, ...]:
    """Bytes of the checkpoint's weights."""
    source, size = backend.size_in(before) if before is not None else 0, backend.size_in(after)
    return (Measure("checkpoint file", float(source) or None, float(size), "bytes"),) if size else ()


def running_decoder(backends: Sequence[Backend], graph: Graph) -> Backend | None:
    """The first backend that writes the graph as a decoder that runs here; None where there is none."""
    decodes = graph.source.kind == "decoder" and rows_of_ids(graph) == 1
    return next((backend for backend in backends if backend.runtime), None) if decodes else None


def running_measures(backend: Backend, source: Graph, folder: Path, progress: Progress) -> tuple[Measure, ...]:
    """Size and speed of the model that runs; the source is exported too, and removed, where it is small."""
    progress("measuring speed", 0, 0, backend.runtime)
    after = float(backend.size_in(folder / backend.place))
    if source.parameter_count() > _LARGEST_TIMED:
        return (Measure("ONNX model", None, after, "bytes"),)
    with scratch_folder() as name:
        backend.export(source, name)
        before = float(backend.size_in(name / backend.place))
        models = backend.open(name, "cpu"), backend.open(folder, "cpu")
        speed = speed_measures(*models, backend.runtime, progress, fitting_run(context_length(source), *_TIMED))
    return (Measure("ONNX model", before, after, "bytes"), *speed)


def check_file(target: Target, backends: Sequence[Backend], folder: Path) -> tuple[str, ...]:
    """A note where the file that was asked for came out larger."""
    if not isinstance(target.quantity, FileBytes):
        return ()
    place, asked = target.quantity.place, target.most // target.quantity.unit
    size = sum(backend.size_in(folder / backend.place) for backend in backends if backend.label == place)
    if size <= asked:
        return ()
    return (f"{place} has {show_bytes(size)}, above the {show_bytes(asked)} asked for; ask for a little less",)
