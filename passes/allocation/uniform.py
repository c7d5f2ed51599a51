"""Uniform allocation: every group gives up the same share of its units."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from graphprune.pruning.interfaces import Allocation, Allotment, Scene
from graphprune.pruning.shares import even_counts


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
        return Allotment(even_counts(scene, scores))
