"""Uniform allocation: every group gives up the same share of its units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy
from numpy.typing import NDArray
from torch import Tensor

from graphprune.budget import Budget, Width, free_widths
from graphprune.groups import Group, Groups
from graphprune.plugins import Allocation
from graphprune.solver import solve


@final
@dataclass(frozen=True)
class Uniform(Allocation):
    """Keep the same share of units in each group, to the nearest count, and as much more as the budget holds.

    Where equal groups can not all have one more, those nearer to the input get it. The scores are not looked at.
    """

    name: ClassVar[str] = "uniform"

    def keep(
        self, groups: Groups, candidates: Sequence[Group], scores: Mapping[str, Tensor], budget: Budget
    ) -> dict[str, int]:
        widths = free_widths(candidates, budget)
        return solve(groups, widths, [shares(width) for width in widths], budget)


def shares(width: Width) -> NDArray[numpy.float64]:
    """The priority of each step: a share rounds to the upper count from the middle of the step on."""
    middle: NDArray[numpy.float64] = (width.levels[:-1] + width.levels[1:]) / -2.0
    return numpy.divide(middle, width.groups[0].units)
