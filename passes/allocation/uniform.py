"""Uniform allocation: every group gives up the same share of its units."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy
from numpy.typing import NDArray
from torch import Tensor

from graphprune.budget.budgets import Width, free_widths
from graphprune.budget.solver import solve
from graphprune.pruning.blocks import block_step, in_order, is_blocks
from graphprune.pruning.interfaces import Allocation, Allotment, Scene


@final
@dataclass(frozen=True)
class Uniform(Allocation):
    """Remove the same share of units from each group, rounded down, and fill the budget with the next units.

    Rounding down favours small groups: losing one of two heads costs far more than its parameters, given back to the
    channels, can make up for. Where equal groups can not all have one more unit, those nearer to the input get it.
    Residual branches, or layers, are cut as the units of one group would be: the lowest scores go. Other scores are not
    looked at.
    """

    name: ClassVar[str] = "uniform"

    def keep(self, scene: Scene, scores: Mapping[str, Tensor]) -> Allotment:
        widths = free_widths(scene.candidates, scene.budget)
        ranks = in_order(widths, scores)
        priorities = [shares(width, ranks.get(place, 0), len(ranks)) for place, width in enumerate(widths)]
        return Allotment(solve(scene.groups, widths, priorities, scene.budget))


def shares(width: Width, rank: int, blocks: int) -> NDArray[numpy.float64]:
    """The priority of each step: it is taken as soon as the share kept is above the count that it starts from."""
    if is_blocks(width):
        return block_step(width, -rank / blocks)
    return numpy.divide(-width.levels[:-1], width.groups[0].units, dtype=numpy.float64)
