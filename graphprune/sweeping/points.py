"""Points: the sizes of a sweep, each cut, measured and kept as soon as it is there."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from graphprune.analysis.analyse import analyze
from graphprune.budget.targets import Target
from graphprune.compiler.compile import as_stored
from graphprune.data.calibration import Text, training_part
from graphprune.errors import DataError
from graphprune.evaluation.measures import held_out_perplexity
from graphprune.ir.graph import Graph
from graphprune.pipeline.passes import Context, run_pass
from graphprune.pipeline.recipes import Recipe
from graphprune.pipeline.stages import expand
from graphprune.progress import Progress
from graphprune.rewriting.solved_weights import write_solved
from graphprune.sweeping.kept import DENSE, POINT, POINTS, WORK, write_point
from graphprune.sweeping.options import SweepOptions
from graphprune.sweeping.schema import Point, Quality


@dataclass(frozen=True, eq=False)
class Scene:
    """What all sizes have in common: the source, the recipe, the text, and where to compute and to report."""

    options: SweepOptions
    out: Path
    recipe: Recipe
    source: Graph
    text: Text
    device: torch.device
    progress: Progress

    def context(self, target: str) -> Context:
        """What passes are given; all sizes share one folder, in which scores and libraries are found again."""
        work = self.out / WORK
        return Context(
            calibration=self.text.batches,
            draw=self.text.draw,
            seed=self.options.seed,
            source=self.source,
            tokenizer=self.text.tokenizer,
            data=training_part(self.options.data, self.options.held_out),
            field=self.options.field,
            folder=work,
            cache=work,
            progress=named(self.progress, target),
            device=self.device,
        )


def named(progress: Progress, target: str) -> Progress:
    """Progress that says which size it is of."""

    def tell(stage: str, done: int = 0, total: int = 0, detail: str = "", part: tuple[int, int] = (1, 1)) -> None:
        progress(f"{target}: {stage}", done, total, detail, part)

    return tell


def measure_source(scene: Scene) -> Point:
    point = describe(scene, "source", scene.source, 0.0, 0.0)
    write_point(scene.out / DENSE, point)
    return point


def make_point(scene: Scene, name: str, target: Target) -> Point:
    """Cut the source to one size, measure what came of it, and keep both."""
    wall, processor = time.perf_counter(), time.process_time()
    context, passes, graph = scene.context(name), expand(scene.recipe, target), scene.source
    for index, item in enumerate(passes):
        graph = run_pass(graph, item, context, passes[:index])
    graph = as_stored(graph) if scene.recipe.changes_weights else graph
    spent = time.perf_counter() - wall, time.process_time() - processor
    folder = scene.out / POINTS / name
    point = describe(scene, name, graph, *spent)
    write_solved(folder, scene.source, graph)
    write_point(folder / POINT, point)
    return point


def describe(scene: Scene, name: str, graph: Graph, wall: float, processor: float) -> Point:
    """A model in numbers."""
    tell = named(scene.progress, name)
    found = held_out_perplexity(graph, scene.text, scene.device, lambda done, all_: tell("measuring", done, all_))
    assert found is not None
    bits = found.bits_per_byte
    if bits is None or not math.isfinite(bits):
        raise DataError(f"{name}: the model computes no finite numbers on the held-out text")
    groups, dtype = analyze(graph), graph.source.dtype
    return Point(
        target=name,
        parameters=graph.parameter_count(),
        weight_bytes=sum(p.numel() * (dtype or p.dtype).itemsize for p in set(graph.parameters().values())),
        cache_bytes=groups.costs.cache_bytes_per_token(groups.sizes()),
        quality=Quality(
            bits_per_byte=bits,
            perplexity=found.perplexity if math.isfinite(found.perplexity) else None,
            tokens=found.tokens,
        ),
        seconds=round(wall, 1),
        processor_seconds=round(processor, 1),
        notes=list(dict.fromkeys(graph.notes)),
    )
