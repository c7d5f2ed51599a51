"""Knapsack allocation: the counts with the least measured rise of the loss, by dynamic programming."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy
from numpy.typing import NDArray
from torch import Tensor

from graphprune.analysis.cost import Polynomial
from graphprune.bounds import Count, NotNegative
from graphprune.budget.budgets import Width, check_reachable, cost_of, free_widths
from graphprune.budget.clusters import Members, find_clusters
from graphprune.budget.knapsack import Item, pack
from graphprune.budget.solver import Levels, sizes_at, solve, terms_with
from graphprune.errors import UsageError
from graphprune.pruning.interfaces import Allocation, Allotment, Scene
from graphprune.pruning.selection import select
from graphprune.pruning.signals.loss_curves import Curve, CutLoss, measure_curves, saturate
from graphprune.running.inputs import Batch, rows
from graphprune.spec import parse_spec

_HUBS, _PART = 256, 64  # combinations that are looked at: of all hubs together, and of one part
_CELLS = 4096  # of the cost grid


@final
@dataclass(frozen=True)
class Knapsack(Allocation):
    """Choose the counts whose measured losses add up to the least within the budget.

    For each free width the rise of the loss is measured with that width alone cut to `levels` counts, on `samples` rows
    of the calibration text, at most a quarter. With `compensated` the weights that read what was cut are solved anew on
    the other rows, as `least-squares` does for the result. Dynamic programming then finds the best counts as if rises
    added up, after what `ceiling` does: the rise, in nats a token, that many cuts together come near but never pass; 0
    for plain sums. A width that multiplies the cost of others, as the residual width does, is tried at each count.
    With `joint` the best counts for each of some levels of that width are cut and compensated together, and what
    measures best is taken: rises of the residual width and of the rest do not add up well.
    """

    name: ClassVar[str] = "knapsack"
    needs_data: ClassVar[bool] = True
    levels: Count = 6
    samples: Count = 64
    compensated: bool = True
    ceiling: NotNegative = 3.0
    joint: bool = False

    def keep(self, scene: Scene, scores: Mapping[str, Tensor]) -> Allotment:
        widths = free_widths(scene.candidates, scene.budget)
        check_reachable(scene.groups, scene.candidates, scene.budget)
        probe = self.probe(scene, scores)
        curves = self.measure(probe, widths)
        if not self.joint:
            return Allotment(land(scene, widths, curves, {}))
        found = [land(scene, widths, curves, at) for at in hub_levels(scene, widths, self.levels)]
        return Allotment(min(found, key=lambda counts: probe.measure_cut(select(scene.groups, counts, scores))))

    def probe(self, scene: Scene, scores: Mapping[str, Tensor]) -> CutLoss:
        """What measures the loss, on rows that no weight is solved on where there are enough."""
        if not scene.batches:
            raise UsageError("knapsack measures the loss on calibration text; give --data")
        repair = parse_spec("compensation", "least-squares{consumers=all}") if self.compensated else None
        batches = first_rows(scene.batches, min(self.samples, sum(map(rows, scene.batches)) // 4))
        text = scene.batches[len(batches) :] or scene.batches
        return CutLoss(scene.graph, batches, text, scores, scene.loss, repair)

    def measure(self, probe: CutLoss, widths: Sequence[Width]) -> tuple[Curve, ...]:
        """The rise of the loss at every level of every width."""
        curves = measure_curves(probe, widths, self.levels)
        return tuple(saturate(curve, self.ceiling) for curve in curves) if self.ceiling > 0 else curves


def land(scene: Scene, widths: Sequence[Width], curves: Sequence[Curve], at: Mapping[int, int]) -> Mapping[str, int]:
    """The best counts with some widths at given levels, filled up to the target."""
    cost, sizes = cost_of(scene.groups, scene.budget), scene.groups.sizes()
    fixed = [replace(w, levels=w.levels[at[i] : at[i] + 1]) if i in at else w for i, w in enumerate(widths)]
    inner = [curve[at[i] : at[i] + 1] if i in at else curve for i, curve in enumerate(curves)]
    chosen = choose(cost, sizes, fixed, inner, scene.budget.target)
    for place, level in at.items():
        chosen[place] = level
    return solve(scene.groups, widths, rank(cost, sizes, widths, curves, chosen), scene.budget)


def hub_levels(scene: Scene, widths: Sequence[Width], levels: int) -> list[dict[int, int]]:
    """Levels of the hubs within the budget, about `levels` spaced ones of each, widest first; {} without hubs."""
    cost = cost_of(scene.groups, scene.budget)
    hubs = find_clusters(cost, widths).hubs
    least = {**scene.groups.sizes(), **sizes_at(widths, numpy.zeros(len(widths), dtype=numpy.int64))}
    each = itertools.product(*(thin(len(widths[w].levels), levels + 1)[::-1] for w in hubs))
    every = (dict(zip(hubs, levels, strict=True)) for levels in each)
    prices = (
        (at, cost({**least, **{i: n for w, k in at.items() for i, n in widths[w].at(k).items()}})) for at in every
    )
    return [at for at, price in prices if price <= scene.budget.target]


def first_rows(batches: Sequence[Batch], samples: int) -> Sequence[Batch]:
    """The first batches that hold so many samples together, or all."""
    held = itertools.accumulate(map(rows, batches))
    return batches[: 1 + sum(total < samples for total in held)]


def choose(
    cost: Polynomial, sizes: Mapping[str, int], widths: Sequence[Width], curves: Sequence[Curve], target: int
) -> Levels:
    """The level of each width with the least sum of rises whose cost is at most `target`.

    Exact where no width has more levels, and the cost above the least no more units, than are looked at.
    """
    clusters = find_clusters(cost, widths)
    fixed = {**sizes, **sizes_at(widths, numpy.zeros(len(widths), dtype=numpy.int64))}
    best, result = numpy.inf, numpy.zeros(len(widths), dtype=numpy.int64)
    tables = [choices(part, widths, _PART) for part in clusters.parts]
    for at in combinations(clusters.hubs, widths):
        outer = float(sum(curves[w][level] for w, level in at.items()))
        if outer >= best:
            continue
        now = {**fixed, **{id: n for w, level in at.items() for id, n in widths[w].at(level).items()}}
        tables = [choices(part, widths, _PART) for part in clusters.parts]
        items = [
            item(cost, now, part, table, widths, curves) for part, table in zip(clusters.parts, tables, strict=True)
        ]
        found = pack(items, target - cost(now) + sum(int(i.costs.min()) for i in items), _CELLS)
        if found is not None and outer + found[1] < best:
            best, result = outer + found[1], result.copy()
            for w, level in at.items():
                result[w] = level
            for part, table, index in zip(clusters.parts, tables, found[0], strict=True):
                result[list(part)] = table[:, index]
    return result


def combinations(hubs: Members, widths: Sequence[Width]) -> Iterator[dict[int, int]]:
    """Every combination of levels of the hubs, widest first; evenly thinned out where they are many."""
    table = choices(hubs, widths, _HUBS)[:, ::-1]
    return (dict(zip(hubs, column.tolist(), strict=True)) for column in table.T)


def choices(members: Members, widths: Sequence[Width], limit: int) -> NDArray[numpy.int64]:
    """Combinations of levels, [members, combinations]; each width is thinned out evenly so that they are not many."""
    most = int(limit ** (1 / max(1, len(members))) + 1e-9)
    each = list(itertools.product(*(thin(len(widths[w].levels), most) for w in members)))
    return numpy.asarray(each, dtype=numpy.int64).reshape(len(each), len(members)).T


def thin(levels: int, most: int) -> list[int]:
    """At most so many places among the levels, the first and the last among them."""
    return sorted(set(numpy.linspace(0, levels - 1, min(levels, max(2, most))).round().astype(int).tolist()))


def item(
    cost: Polynomial,
    sizes: Mapping[str, int],
    part: Members,
    table: NDArray[numpy.int64],
    widths: Sequence[Width],
    curves: Sequence[Curve],
) -> Item:
    """What a part of the widths may be: the exact cost of each combination at the hubs' sizes, and the rise."""
    counts: dict[str, Any] = dict(sizes)
    values = numpy.zeros(table.shape[1])
    for w, levels in zip(part, table, strict=True):
        counts |= {group.id: widths[w].levels[levels] for group in widths[w].groups}
        values += curves[w][levels]
    own = terms_with(cost, frozenset(group.id for w in part for group in widths[w].groups))
    costs = numpy.zeros(table.shape[1], dtype=numpy.int64) + own(counts)  # the polynomial of arrays is an array
    return Item(costs, values)


def rank(
    cost: Polynomial, sizes: Mapping[str, int], widths: Sequence[Width], curves: Sequence[Curve], chosen: Levels
) -> list[NDArray[numpy.float64]]:
    """Priorities by which the chosen levels are reached first, and what is left goes where it lowers the loss most."""
    now = {**sizes, **sizes_at(widths, chosen)}
    worth = []
    for width, curve in zip(widths, curves, strict=True):
        own = terms_with(cost, frozenset(group.id for group in width.groups))
        counts: dict[str, Any] = {**now, **{group.id: width.levels for group in width.groups}}
        costs = numpy.zeros(len(width.levels), dtype=numpy.int64) + own(counts)
        worth.append(-numpy.diff(curve) / numpy.maximum(1, numpy.diff(costs)))
    first = 1 + max((float(values.max()) for values in worth if len(values)), default=0.0)
    return [
        numpy.where(numpy.arange(len(values)) < level, first, values)
        for values, level in zip(worth, chosen.tolist(), strict=True)
    ]
