"""Uniform allocation: every group gives up the same share of its units."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy
from numpy.typing import NDArray

from graphprune.budget.budgets import Width, free_widths
from graphprune.budget.solver import solve
from graphprune.pruning.interfaces import Allocation, Allotment, Round


@final
@dataclass(frozen=True)
class Uniform(Allocation):
    """Remove the same share of units from each group, rounded down, and fill the budget with the next units.

    Rounding down favours small groups: losing one of two heads costs far more than its parameters, given back to the
    channels, can make up for. Where equal groups can not all have one more unit, those nearer to the input get it.
    The scores are not looked at.
    """

    name: ClassVar[str] = "uniform"

    def keep(self, round: Round) -> Allotment:
        widths = free_widths(round.candidates, round.budget)
        return Allotment(solve(round.groups, widths, [shares(width) for width in widths], round.budget))


def shares(width: Width) -> NDArray[numpy.float64]:
    """The priority of each step: it is taken as soon as the share kept is above the count that it starts from."""
    return numpy.divide(-width.levels[:-1], width.groups[0].units, dtype=numpy.float64)
