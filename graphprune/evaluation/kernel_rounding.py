"""Rounding: which multiples of a width the kernels of onnxruntime like on this machine, from a table of times."""

import importlib
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from graphprune.analysis.analyse import analyze
from graphprune.budget.budgets import ROUNDED_KINDS
from graphprune.budget.quantities import FileBytes
from graphprune.ir.graph import Graph
from graphprune.progress import Progress

STEPS = (1, 2, 4, 8, 16, 32, 64)
_WHOLE = 2 * STEPS[-1]  # multiples of this are taken to be as fast as any
_ROWS = (1, 64)  # tokens at once: of a decoding step, and of a part of a prompt
_TOLERANCE = 1.1
_BYTES, _LAYERS, _RUNS = 24_000_000, 24, 40  # weights, more than caches hold; runs of each model, in turns


@dataclass(frozen=True)
class Timing:
    """Layers of a width that `step` divides and no larger step does.

    `seconds` are those for each number of rows, `ratio` these over what lies between the next whole widths; the worst.
    """

    step: int
    width: int
    seconds: tuple[float, ...]
    ratio: float


def measure_rounding(graph: Graph, file: FileBytes, progress: Progress) -> tuple[int, tuple[Timing, ...]]:
    """The smallest multiple that costs at most 10 % more than the next whole widths let expect, and the table."""
    narrow, wide = typical_widths(graph)
    progress("measuring which widths are fast", 0, 0)
    with tempfile.TemporaryDirectory(prefix="graphprune-") as name:
        middle = max(_WHOLE, wide // 2 // _WHOLE * _WHOLE)
        widths = [middle + step for step in (0, *STEPS, _WHOLE)]
        models = {width: write_layers(Path(name) / str(width), narrow, width, file) for width in widths}
        seconds = time_models({width: open_layers(path, narrow) for width, path in models.items()})
    table = read_table(middle, seconds)
    good = [timing.step for timing in table if timing.ratio <= _TOLERANCE]
    return (min(good) if good else _WHOLE), table


def read_table(middle: int, seconds: Mapping[int, tuple[float, ...]]) -> tuple[Timing, ...]:
    """Every step beside the line between the whole widths around it."""
    result = []
    for step in STEPS:
        found, share = seconds[middle + step], step / _WHOLE
        ends = zip(seconds[middle], seconds[middle + _WHOLE], strict=True)
        expected = [(1 - share) * low + share * high for low, high in ends]
        ratio = max(f / e for f, e in zip(found, expected, strict=True))
        result.append(Timing(step, middle + step, found, round(ratio, 3)))
    return tuple(result)


def typical_widths(graph: Graph) -> tuple[int, int]:
    """The residual width, and the largest other width that rounding applies to."""
    groups = [group for group in analyze(graph).prunable() if group.kind in ROUNDED_KINDS - {"vocabulary"}]
    stream = max((group.units for group in groups if group.kind == "residual"), default=256)
    return stream, max((group.units for group in groups if group.kind != "residual"), default=stream)


def write_layers(folder: Path, narrow: int, wide: int, file: FileBytes) -> Path:
    """A model of MLPs one after the other, narrow to wide to narrow, in the precision of the file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir()
    random, nodes, weights, last = numpy.random.default_rng(0), [], [], "x"
    for layer in range(min(_LAYERS, max(1, _BYTES // (8 * narrow * wide)))):
        for part, shape in (("up", (narrow, wide)), ("down", (wide, narrow))):
            name = f"{layer}.{part}"
            values = (random.standard_normal(shape) / shape[0] ** 0.5).astype(numpy.float32)
            weights.append(numpy_helper.from_array(values, f"{name}.weight"))
            nodes.append(helper.make_node("MatMul", [last, f"{name}.weight"], [name], name))
            last = name
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", narrow]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / "full.onnx"
    onnx.save(model, path)
    return path if file.precision in ("fp32", "half") else reduce_layers(path, folder, file)


def reduce_layers(path: Path, folder: Path, file: FileBytes) -> Path:
    reduced: Any = importlib.import_module("graphprune.backends.ort.reduced_precision")
    int4 = {"block": file.block, "symmetric": file.symmetric, "embeddings": False}
    return Path(reduced.reduce_precision(path, folder, file.precision, int4 if file.precision == "int4" else {})[0])


def open_layers(path: Path, narrow: int) -> Callable[[int], float]:
    """What takes a number of rows and gives the seconds of a run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(rows: int) -> float:
        feed = {"x": numpy.ones((rows, narrow), numpy.float32)}
        began = time.perf_counter()
        session.run(None, feed)
        return time.perf_counter() - began

    return run


def time_models(models: Mapping[int, Callable[[int], float]]) -> dict[int, tuple[float, ...]]:
    """The least seconds of each model for each number of rows, models taking turns: what is added is other work."""
    found = {width: [math.inf] * len(_ROWS) for width in models}
    for _ in range(_RUNS):
        for width, run in models.items():
            found[width] = [min(least, run(rows)) for least, rows in zip(found[width], _ROWS, strict=True)]
    return {width: tuple(times) for width, times in found.items()}
