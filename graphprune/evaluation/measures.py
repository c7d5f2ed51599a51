"""Measures: what is measured of a model before and after: its cost, its files, its speed, its perplexity."""

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from graphprune.analysis.groups import Groups
from graphprune.artefacts.loading import runtime
from graphprune.artefacts.staging import folder_size
from graphprune.budget.quantities import FileBytes, show_bytes
from graphprune.budget.targets import Target
from graphprune.data.calibration import Text
from graphprune.evaluation.measure import Measure
from graphprune.ir.contract import rows_of_ids
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place
from graphprune.progress import Progress
from graphprune.running.devices import memory_errors
from graphprune.running.perplexity import Perplexity, perplexity

# Work beyond this takes minutes on a processor, and is left to `graphprune eval` and `bench`.
LARGEST_MEASURED = 300_000_000
_WINDOW, _WORK = 256, 4e11


def held_out_perplexity(graph: Graph, text: Text, device: torch.device) -> Perplexity | None:
    """Perplexity on the held-out text, or on as much of it as the model's size allows; None for large models."""
    parameters = graph.parameter_count()
    if parameters > LARGEST_MEASURED or len(text.held_out) < 2:
        return None
    limit = max(2048, int(_WORK / (2 * parameters)))
    whole = len(text.held_out) <= limit
    count = text.held_out_bytes if whole else None
    here = graph if device.type == "cpu" else place(graph, device)
    with memory_errors("the model does not fit beside what it computes; give --device cpu"):
        return perplexity(here, text.held_out[:limit], _WINDOW, bos=text.bos, text_bytes=count)


def cost_measures(before: Groups, after: Groups) -> tuple[Measure, ...]:
    """The polynomials of both models at their present sizes."""
    old, new = before.sizes(), after.sizes()
    rows = (
        ("parameters", before.costs.parameters(old), after.costs.parameters(new)),
        ("multiplications per token", before.costs.macs_per_token(old), after.costs.macs_per_token(new)),
        ("cache bytes per token", before.costs.cache_bytes_per_token(old), after.costs.cache_bytes_per_token(new)),
    )
    return tuple(Measure(name, float(a), float(b), "bytes" if "bytes" in name else "") for name, a, b in rows if a)


def perplexity_measures(
    before: Perplexity | None, after: Perplexity | None, same_tokens: bool = True
) -> tuple[Measure, ...]:
    """Perplexity, which is of a token and left out where tokens differ, and bits per byte, which compare always."""
    if before is None or after is None:
        return ()
    perplexities = Measure("held-out perplexity", finite(before.perplexity), finite(after.perplexity))
    rows = [perplexities] if same_tokens else []
    if before.bits_per_byte is not None and after.bits_per_byte is not None:
        rows.append(Measure("held-out bits per byte", before.bits_per_byte, after.bits_per_byte))
    return tuple(rows)


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def file_measures(before: Path | None, after: Path) -> tuple[Measure, ...]:
    """Bytes of the checkpoint's weights and of the ONNX model."""
    source = float(folder_size(before, "*.safetensors")) if before is not None else None
    rows = [Measure("checkpoint file", source or None, float(folder_size(after, "*.safetensors")), "bytes")]
    return tuple(row for row in rows if row.after)


def speed_measures(
    before: Path | None, after: Path, load: Callable[..., Any], speed: Callable[..., tuple[float, float]]
) -> tuple[Measure, ...]:
    """Tokens per second of both ONNX models, runs interleaved, the better of three each; `before` may be missing."""
    models = {name: load(folder) for name, folder in (("before", before), ("after", after)) if folder is not None}
    best: dict[str, list[float]] = {name: [0.0, 0.0] for name in models}
    for _ in range(3):
        for name, model in models.items():
            best[name] = [max(pair) for pair in zip(best[name], speed(model, 64, 32), strict=True)]
    old, new = best.get("before", [None, None]), best["after"]
    return (
        Measure("onnxruntime prefill tokens/s", old[0], new[0]),
        Measure("onnxruntime decode tokens/s", old[1], new[1]),
    )


def artefact_measures(
    backends: Sequence[Any], source: Graph, graph: Graph, folder: Path, progress: Progress
) -> tuple[Measure, ...]:
    """Files and speed of what the backends wrote, beside the source's."""
    found = onnx_decoder(backends, graph)
    files = file_measures(source.source.folder, folder) if any(b.name == "huggingface" for b in backends) else ()
    return (*files, *(onnx_measures(found, source, folder, progress) if found else ()))


def onnx_decoder(backends: Sequence[Any], graph: Graph) -> Any:
    """The first backend that writes the graph as an ONNX decoder; None where there is none."""
    decodes = graph.source.kind == "decoder" and rows_of_ids(graph) == 1
    return next((b for b in backends if b.name in ("onnx", "ort")), None) if decodes else None


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


def check_file(target: Target, folder: Path) -> tuple[str, ...]:
    """A note where the file that was asked for came out larger."""
    if not isinstance(target.quantity, FileBytes):
        return ()
    place, asked = target.quantity.place, target.most // target.quantity.unit
    names = ("model.onnx*", "*.gguf")
    size = sum(folder_size(folder / place, name) for name in names)
    size = folder_size(folder, "*.safetensors") if place == "checkpoint" else size
    if size <= asked:
        return ()
    return (f"{place} has {show_bytes(size)}, above the {show_bytes(asked)} asked for; ask for a little less",)
