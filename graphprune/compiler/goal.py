"""The aim of a run: its target and the rounding of widths, with what had to be measured on this machine for them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from graphprune.amounts import parse_speed
from graphprune.budget.backend import Backend
from graphprune.budget.quantities import Latency
from graphprune.budget.targets import Target, cost_of_graph, file_quantities, resolve_target
from graphprune.errors import UsageError
from graphprune.evaluation.kernel_rounding import measure_rounding
from graphprune.evaluation.latency import measure_latency
from graphprune.ir.graph import Graph
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import Recipe
from graphprune.progress import Progress, no_progress
from graphprune.suggestions import AUTO

_MEASURED = "measured.json"


@dataclass(frozen=True)
class Aim:
    """The target, the recipe with its rounding, and the tables that were measured for both."""

    target: Target
    recipe: Recipe
    measured: Mapping[str, Any] = field(default_factory=dict)


def find_aim(
    options: CompileOptions,
    recipe: Recipe,
    source: Graph,
    backends: Sequence[Backend],
    kept: Path | None = None,
    progress: Progress = no_progress,
) -> Aim:
    """What the options ask for, measured where that is needed, or as `kept` remembers it from before an interruption.

    Raises UsageError, BudgetError.
    """
    times = None if options.target_speed is None else parse_speed(options.target_speed)
    path = kept / _MEASURED if kept is not None else None
    measured = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}
    if options.round_to == AUTO and "rounding" not in measured:
        measured["rounding"] = rounding(source, backends, progress)
    if times is not None and "speed" not in measured:
        measured["speed"] = speed(source, backends, progress)
    if path is not None and measured:
        path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    if options.round_to == AUTO:
        prune = replace(recipe.prune, round_to=measured["rounding"]["step"])
        recipe = recipe.model_copy(update={"prune": prune})
    if times is None:
        return Aim(resolve_target(*options.target, source, file_quantities(source, backends)), recipe, measured)
    quantity = Latency(**measured["speed"]["latency"])
    target = Target(quantity, int(quantity.unit / times), cost_of_graph(quantity, source))
    return Aim(target, recipe, measured)


def rounding(source: Graph, backends: Sequence[Backend], progress: Progress) -> dict[str, Any]:
    found = first_timed(backends)
    if found is None:
        raise UsageError("--round-to auto measures onnxruntime; add onnx or ort to --backends, or give a number")
    step, table = measure_rounding(source, found, progress)
    return {"step": step, "file": found.place, "table": [asdict(timing) for timing in table]}


def speed(source: Graph, backends: Sequence[Backend], progress: Progress) -> dict[str, Any]:
    found = first_timed(backends)
    if found is None:
        raise UsageError("--target-speed is measured in onnxruntime; add ort to --backends")
    latency, points = measure_latency(source, found, progress)
    return {"latency": asdict(latency), "file": found.place, "points": [asdict(point) for point in points]}


def first_timed(backends: Sequence[Backend]) -> Backend | None:
    """The first backend whose models are timed here, or None."""
    return next((backend for backend in backends if backend.runtime), None)
