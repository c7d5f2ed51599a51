"""Rounding: which multiples of a width the kernels of onnxruntime like on this machine, from a table of times."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy

from graphprune.analysis.analyse import analyze
from graphprune.artefacts.scratch import scratch_folder
from graphprune.budget.backend import Backend
from graphprune.budget.budgets import ROUNDED_KINDS
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


def measure_rounding(graph: Graph, backend: Backend, progress: Progress) -> tuple[int, tuple[Timing, ...]]:
    """The smallest multiple that costs at most 10 % more than the next whole widths let expect, and the table."""
    narrow, wide = typical_widths(graph)
    progress("measuring which widths are fast", 0, 0)
    with scratch_folder() as name:
        middle = max(_WHOLE, wide // 2 // _WHOLE * _WHOLE)
        widths = [middle + step for step in (0, *STEPS, _WHOLE)]
        models = {width: open_layers(backend, name / str(width), narrow, width) for width in widths}
        seconds = time_models(models)
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


def open_layers(backend: Backend, folder: Path, narrow: int, wide: int) -> Callable[[int], float]:
    """What takes a number of rows and gives the seconds of a run of layers as the backend writes them."""
    folder.mkdir()
    model = backend.open_layers(folder, narrow, wide, min(_LAYERS, max(1, _BYTES // (8 * narrow * wide))))

    def run(rows: int) -> float:
        feed = {"x": numpy.ones((rows, narrow), numpy.float32)}
        began = time.perf_counter()
        model.infer(feed)
        return time.perf_counter() - began

    return run


def time_models(models: Mapping[int, Callable[[int], float]]) -> dict[int, tuple[float, ...]]:
    """The least seconds of each model for each number of rows, models taking turns: what is added is other work."""
    found = {width: [math.inf] * len(_ROWS) for width in models}
    for _ in range(_RUNS):
        for width, run in models.items():
            found[width] = [min(least, run(rows)) for least, rows in zip(found[width], _ROWS, strict=True)]
    return {width: tuple(times) for width, times in found.items()}
