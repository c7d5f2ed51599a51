"""Latency: the time of a decoded token on this machine as a function of the widths, from models that were measured."""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
from numpy.typing import NDArray

from graphprune.analysis.analyse import analyze
from graphprune.artefacts.scratch import scratch_folder
from graphprune.budget.backend import Backend
from graphprune.budget.quantities import Latency
from graphprune.context import fitting_run
from graphprune.errors import UsageError
from graphprune.evaluation.bench import Setting, Subject, bench
from graphprune.ir.contract import context_length
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.progress import Progress
from graphprune.rewriting.apply import apply

SETTING = Setting(context=128, tokens=32, runs=5)
# The share of its units that each group of these kinds keeps in a measured model.
_SHAPES = (
    (("mlp", "attention", "residual"), 0.5),
    (("mlp",), 0.5),
    (("attention",), 0.5),
    (("mlp", "attention", "residual"), 0.25),
    (("mlp", "attention"), 0.25),
)


@dataclass(frozen=True)
class Point:
    """A model of other widths: its costs and its time a token, as parts of the source's."""

    shape: str
    multiplications: float
    cache: float
    time: float


def measure_latency(graph: Graph, backend: Backend, progress: Progress) -> tuple[Latency, tuple[Point, ...]]:
    """Decode with the source and with models of other widths, in turns, and fit what a token takes.

    Raises UsageError for a model that does not decode.
    """
    if graph.source.kind != "decoder":
        raise UsageError("--target-speed measures how fast tokens are made; this model makes none")
    points = tuple(measure_points(graph, backend, progress))
    return fit_latency(graph, points), points


def measure_points(graph: Graph, backend: Backend, progress: Progress) -> Iterator[Point]:
    """One point a shape; each is measured beside the source in full, in a folder that is gone afterwards."""
    context, tokens = fitting_run(context_length(graph), SETTING.context, SETTING.tokens + 1)
    setting = replace(SETTING, context=context, tokens=max(1, tokens - 1))
    with scratch_folder() as name:
        dense = name / "source"
        backend.export(graph, dense)
        for index, (kinds, share) in enumerate(_SHAPES):
            progress("measuring speed at other widths", index, len(_SHAPES))
            small = cut_evenly(graph, kinds, share)
            if small is graph:
                continue
            with tempfile.TemporaryDirectory(dir=name) as folder:
                backend.export(small, Path(folder))
                time = compare(dense / backend.place, Path(folder) / backend.place, setting)
            yield Point(f"{share:.0%} of {', '.join(kinds)}", *relative_costs(graph, small), time)


def cut_evenly(graph: Graph, kinds: Sequence[str], share: float) -> Graph:
    """The first units of every group of these kinds; the graph itself where it has none."""
    groups = [group for group in analyze(graph).prunable() if group.kind in kinds]
    return apply(graph, Plan({g.id: tuple(range(max(1, round(share * g.units)))) for g in groups})) if groups else graph


def relative_costs(graph: Graph, small: Graph) -> tuple[float, float]:
    """Multiplications and cache bytes a token, over the graph's."""
    found = []
    for each in (small, graph):
        groups = analyze(each)
        costs, sizes = groups.costs, groups.sizes()
        found.append((costs.macs_per_token(sizes), costs.cache_bytes_per_token(sizes)))
    (macs, cache), (all_macs, all_cache) = found
    return macs / max(1, all_macs), cache / max(1, all_cache)


def compare(source: Path, small: Path, setting: Setting) -> float:
    """The time of a token in one model over that in another, measured in turns."""
    subjects = (Subject("the source", source), Subject("a smaller model", small))
    first, second = bench(subjects, setting, lambda *_: None)
    return first.decode.value / second.decode.value


def fit_latency(graph: Graph, points: Sequence[Point]) -> Latency:
    """The shares of a token's time that are fixed, and that go with multiplications and with the cache."""
    fixed, moving, cache = fit_shares(points)
    groups = analyze(graph)
    macs = groups.costs.macs_per_token(groups.sizes())
    held = groups.costs.cache_bytes_per_token(groups.sizes())
    whole = Latency().unit
    return Latency(round(fixed * whole), round(moving * whole / max(1, macs)), round(cache * whole / max(1, held)))


def fit_shares(points: Sequence[Point]) -> tuple[float, float, float]:
    """Least squares with shares that are not negative and come to 1 at the source, by all choices of those at zero."""
    rows = numpy.array([[1.0, p.multiplications, p.cache] for p in points])
    times = numpy.array([p.time for p in points])
    found = [solve_with(rows, times, chosen) for n in (1, 2, 3) for chosen in itertools.combinations(range(3), n)]
    allowed = [(error, shares) for error, shares in found if (shares >= 0).all()]
    best = min(allowed, key=lambda pair: pair[0])[1]
    return float(best[0]), float(best[1]), float(best[2])


def solve_with(
    rows: NDArray[numpy.float64], times: NDArray[numpy.float64], chosen: tuple[int, ...]
) -> tuple[float, NDArray[numpy.float64]]:
    """The squared error and the shares with only the chosen ones above zero: the first is 1 minus the others."""
    first, others = chosen[0], list(chosen[1:])
    shares = numpy.zeros(3)
    if others:
        shifted = rows[:, others] - rows[:, [first]]
        shares[others] = numpy.linalg.lstsq(shifted, times - rows[:, first], rcond=None)[0]
    shares[first] = 1 - shares.sum()
    return float(((rows @ shares - times) ** 2).sum()), shares
