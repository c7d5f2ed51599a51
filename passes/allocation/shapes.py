"""Shapes: equal widths in all layers, of which those near the budget are tried out (Minitron)."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, NamedTuple, final

import numpy
from annotated_types import Gt, Lt
from torch import Tensor

from graphprune.analysis.cost import Polynomial
from graphprune.bounds import Count
from graphprune.budget.budgets import Budget, Width, check_reachable, cost_of, free_widths
from graphprune.errors import BudgetError, UsageError
from graphprune.passes.allocation.knapsack import first_rows, thin
from graphprune.pruning.blocks import in_order, is_blocks
from graphprune.pruning.interfaces import Allocation, Allotment, Scene
from graphprune.pruning.selection import select
from graphprune.pruning.signals.loss_curves import CutLoss
from graphprune.running.inputs import rows

_COARSE = 9  # values of each width but the finest, which fills the budget
Counts = Mapping[str, int]


class Shape(NamedTuple):
    """Counts of all candidates, what they cost, and how far apart the shares are that the widths keep."""

    counts: Counts
    cost: int
    spread: float


@final
@dataclass(frozen=True)
class Shapes(Allocation):
    """Give all groups of a kind one width; of the shapes that cost little less than the target, the best one measured.

    Shapes cost at most `within` less than the target, and never more. Those `tries` whose widths keep the most even
    shares are cut, and measured on `samples` rows of the calibration text, at most a quarter (arXiv 2407.14679 trains
    each a little first). The finest width fills the budget; the others are tried at about nine values each. What was
    tried, in order, is remembered as `tried`.
    """

    name: ClassVar[str] = "shapes"
    needs_data: ClassVar[bool] = True
    within: Annotated[float, Gt(0), Lt(1)] = 0.05
    tries: Count = 8
    samples: Count = 64

    def keep(self, scene: Scene, scores: Mapping[str, Tensor]) -> Allotment:
        if not scene.batches:
            raise UsageError("shapes are measured on calibration text; give --data")
        budget = replace(scene.budget, uniform=True)
        check_reachable(scene.groups, scene.candidates, budget)
        shapes = self.propose(scene, budget, scores)
        text = first_rows(scene.batches, min(self.samples, max(1, sum(map(rows, scene.batches)) // 4)))
        probe = CutLoss(scene.graph, text, scene.batches[len(text) :] or text, scores, scene.loss, scene.repair)
        losses = []
        for done, shape in enumerate(shapes):
            scene.progress(done, len(shapes))
            losses.append(probe.measure_cut(select(scene.groups, shape.counts, scores)))
        best = min(range(len(shapes)), key=lambda place: (losses[place], place))
        log = [describe(scene, shape, loss) for shape, loss in zip(shapes, losses, strict=True)]
        return Allotment(shapes[best].counts, {"tried": log})

    def propose(self, scene: Scene, budget: Budget, scores: Mapping[str, Tensor]) -> list[Shape]:
        """The shapes to try, those of even shares first. Raises BudgetError where none is near the target."""
        widths = free_widths(scene.candidates, budget)
        cost, sizes = cost_of(scene.groups, budget), scene.groups.sizes()
        plain = [place for place, width in enumerate(widths) if not is_blocks(width)]
        finest = max(plain, key=lambda place: (len(widths[place].levels), -place), default=None)
        coarse = [coarse_counts(width) for place, width in enumerate(widths) if place in plain and place != finest]
        filler = [{}] if finest is None else [widths[finest].at(level) for level in range(len(widths[finest].levels))]
        found, above = list[Shape](), list[int]()
        for parts in itertools.product(*coarse, block_counts(widths, scores)):
            counts = {id: count for part in parts for id, count in part.items()}
            shape, over = fill(cost, {**sizes, **counts}, counts, filler, budget.target)
            found += [] if shape is None else [with_spread(shape, scene)]
            above += [] if over is None else [over]
        near = [shape for shape in found if shape.cost >= (1 - self.within) * budget.target]
        if not near:
            raise BudgetError(explain_none(budget, [shape.cost for shape in found], above))
        return sorted(near, key=lambda shape: (round(shape.spread, 9), -shape.cost))[: self.tries]


def coarse_counts(width: Width) -> list[Counts]:
    """A few values of a width, the least and the full one among them."""
    return [width.at(level) for level in thin(len(width.levels), _COARSE)]


def block_counts(widths: Sequence[Width], scores: Mapping[str, Tensor]) -> list[Counts]:
    """All blocks, and all but the worst, the two worst, and so on, a few of these."""
    rank = in_order(widths, scores)
    falling = sorted((place for place in rank if len(widths[place].levels) > 1), key=lambda place: rank[place])
    counts: list[Counts] = []
    for kept in thin(len(falling) + 1, _COARSE) if falling else [0]:
        levels = {place: int(order < kept) for order, place in enumerate(falling)}
        counts.append({id: n for place, level in levels.items() for id, n in widths[place].at(level).items()})
    return counts


def fill(
    cost: Polynomial, sizes: Mapping[str, int], counts: Counts, filler: Sequence[Counts], target: int
) -> tuple[Shape | None, int | None]:
    """The shape with as much of the finest width as the target allows, and what one step more would cost."""
    least = cost({**sizes, **filler[0]})
    if least > target:
        return None, least
    low, high = 0, len(filler)  # `low` fits, `high` does not, or does not exist
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost({**sizes, **filler[middle]}) <= target else (low, middle)
    over = cost({**sizes, **filler[high]}) if high < len(filler) else None
    return Shape({**counts, **filler[low]}, cost({**sizes, **filler[low]}), 0.0), over


def with_spread(shape: Shape, scene: Scene) -> Shape:
    """The shape with the largest difference between the shares that kinds keep."""
    kept, whole = dict[str, int](), dict[str, int]()
    for group in scene.candidates:
        kept[group.kind] = kept.get(group.kind, 0) + shape.counts[group.id]
        whole[group.kind] = whole.get(group.kind, 0) + scene.full(group)
    shares = [kept[kind] / whole[kind] for kind in kept]
    return shape._replace(spread=float(numpy.ptp(shares)))


def describe(scene: Scene, shape: Shape, loss: float) -> dict[str, object]:
    """A line of the log: the counts of each kind, ascending, the cost, the loss."""
    found: dict[str, list[int]] = {}
    for group in scene.candidates:
        found[group.kind] = sorted({*found.get(group.kind, []), shape.counts[group.id]})
    return {"widths": found, "cost": shape.cost, "loss": round(loss, 6)}


def explain_none(budget: Budget, below: Sequence[int], above: Sequence[int]) -> str:
    show = budget.quantity.show
    nearest = " and ".join(show(cost) for cost in ([max(below)] if below else []) + ([min(above)] if above else []))
    return (
        f"no equal widths cost little less than the target of {show(budget.target)}: the nearest are {nearest}; "
        "aim at one of them, give shapes a larger within, or prune more kinds"
    )
