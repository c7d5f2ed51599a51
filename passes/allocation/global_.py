"""Global allocation: units of all groups in one ranking."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy
from numpy.typing import NDArray
from torch import Tensor

from graphprune.analysis.groups import BLOCKS, Group
from graphprune.budget.budgets import Width, cost_of, free_widths
from graphprune.budget.solver import solve
from graphprune.pruning.interfaces import Allocation, Allotment, Scene
from graphprune.pruning.selection import check_scores


@final
@dataclass(frozen=True)
class Global(Allocation):
    """Remove the units with the lowest scores, wherever they are, until the budget holds.

    `per=cost` ranks by score per cost of the unit at present widths, the best use of a budget where scores add up;
    `per=unit` by the score itself. `normalize` makes scores comparable first: `none` takes them as they are, `kind`
    divides by the mean rank value of all units of the group's kind, `mean` by that of the group alone (of all blocks,
    for a residual branch or a layer). Without it, the first-order scores of heads, and those of early and late layers,
    do not compare once a cut is large: groups run into their floors, and models break (docs/methods/first-methods.md).
    `zscore` takes each group's scores around their mean, over their deviation, as FLAP does (arXiv 2312.11983); costs
    then count for the budget alone. `over=kind` makes a ranking of each kind, and gives up the same share of all units
    of each, heads as channels: FLAP's AL-MM with one ratio.
    """

    name: ClassVar[str] = "global"
    per: Literal["cost", "unit"] = "cost"
    normalize: Literal["none", "kind", "mean", "zscore"] = "mean"
    over: Literal["all", "kind"] = "all"

    def keep(self, scene: Scene, scores: Mapping[str, Tensor]) -> Allotment:
        cost, sizes = cost_of(scene.groups, scene.budget), scene.groups.sizes()
        values: dict[str, NDArray[numpy.float64]] = {}
        by_cost = self.per == "cost" and self.normalize != "zscore"
        for group in scene.candidates:
            check_scores(group, scores[group.id])
            ranked = -numpy.sort(-scores[group.id].double().numpy())
            values[group.id] = divide(ranked, cost.slope(sizes, group.id) if by_cost else 1)
        values = {group.id: self.comparable(group, scene.candidates, values) for group in scene.candidates}
        values = places(scene.candidates, values) if self.over == "kind" else values
        widths = free_widths(scene.candidates, scene.budget)
        priorities = [step_values(width, values) for width in widths]
        return Allotment(solve(scene.groups, widths, priorities, scene.budget))

    def comparable(
        self, group: Group, candidates: Sequence[Group], values: Mapping[str, NDArray[numpy.float64]]
    ) -> NDArray[numpy.float64]:
        """The values of this group in a scale that all groups share."""
        own, by_kind = values[group.id], self.normalize == "kind" or group.kind in BLOCKS  # which have no units
        if self.normalize == "none":
            return own
        alike = numpy.concatenate(
            [values[g.id] for g in candidates if g is group or (by_kind and g.kind == group.kind)]
        )
        if self.normalize == "zscore":
            return standardise(own, alike)
        mean = float(alike.mean())
        return divide(own, mean if 0 < mean < math.inf else 1.0)


def places(
    candidates: Sequence[Group], values: Mapping[str, NDArray[numpy.float64]]
) -> dict[str, NDArray[numpy.float64]]:
    """Minus the place of each value among all of its kind, best first, as a share: equal shares where all are cut at
    one number."""
    found: dict[str, NDArray[numpy.float64]] = {}
    for kind in dict.fromkeys(group.kind for group in candidates):
        mine = [group for group in candidates if group.kind == kind]
        whole = numpy.concatenate([values[group.id] for group in mine])
        place = numpy.empty(len(whole))
        place[numpy.argsort(-whole, kind="stable")] = numpy.arange(len(whole)) / len(whole)
        found |= dict(
            zip((g.id for g in mine), numpy.split(-place, numpy.cumsum([g.units for g in mine])[:-1]), strict=True)
        )
    return found


def divide(values: NDArray[numpy.float64], by: float) -> NDArray[numpy.float64]:
    """Values over a positive number; what costs nothing is worth keeping at any price."""
    return values / by if by > 0 else numpy.full_like(values, numpy.inf)


def standardise(values: NDArray[numpy.float64], alike: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """Values around the mean of these numbers, over their deviation; 0 where they are all alike."""
    deviation = float(alike.std(ddof=1)) if len(alike) > 1 else 0.0
    return (values - alike.mean()) / deviation if deviation > 0 else numpy.zeros_like(values)


def step_values(width: Width, values: Mapping[str, NDArray[numpy.float64]]) -> NDArray[numpy.float64]:
    """The mean value of the units that each step adds, over all groups that share the width."""
    mean = numpy.mean([values[group.id] for group in width.groups], axis=0)
    ends = width.levels
    sums = numpy.add.reduceat(mean[: ends[-1]], ends[:-1]) if len(ends) > 1 else mean[:0]
    return numpy.divide(sums, numpy.diff(ends))
