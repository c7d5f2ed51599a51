"""Stability allocation: layers whose importance fluctuates more between parts of the text give up more (SAAP)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, ClassVar, Literal, final

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from graphprune.analysis.groups import BLOCKS, Group
from graphprune.errors import UsageError
from graphprune.pruning.interfaces import Allocation, Allotment, Scene
from graphprune.pruning.shares import cut_at_rates

Indicator = Literal["asi", "asi-by-importance", "dispersion"]
_NOISE = 1e-9  # an indicator below is of rounding
_ALIKE = "stability found no two {per}s whose importance fluctuates differently: all give up the same share"


@final
@dataclass(frozen=True)
class Stability(Allocation):
    """Cut each module by a share that grows by d (1 + amplitude p), p in [-1, 1] its place by how much it fluctuates.

    Modules are groups, such as the heads or the channels of a layer, or with `per=layer` layers. The importance that
    goes with it scores units on each of `parts` parts of the text. `asi` is the deviation between parts of the sum over
    a module's units, over its mean; `asi-by-importance` is that over the mean importance of the module's units;
    `dispersion` is the deviation between the module's units over their mean. The module where it is largest gives up
    most; those that are alike share a place, so where parts do not differ all give up the same share. d is what meets
    the budget exactly. Groups outside of layers, and blocks, give up the share d.

    After SAAP (arXiv 2412.15127), whose indicator is not known: these are readings of "adaptive stability indicator".
    """

    name: ClassVar[str] = "stability"
    needs_data: ClassVar[bool] = True
    indicator: Indicator = "asi-by-importance"
    amplitude: Annotated[float, Ge(0), Lt(1)] = 0.2
    per: Literal["group", "layer"] = "group"
    parts: Annotated[int, Ge(2)] = 8

    @property
    def compared_parts(self) -> int:
        return self.parts

    def keep(self, scene: Scene, scores: Mapping[str, Tensor]) -> Allotment:
        if not scene.batches:
            raise UsageError("stability compares parts of calibration text; give --data")
        return cut_at_rates(scene, scores, self.rates(scene))

    def rates(self, scene: Scene) -> Mapping[str, float]:
        """1 + amplitude times its module's place, for each candidate."""
        modules = self.modules(scene)
        sums = [sum_units([scene.parts[group.id] for group in module]) for module in modules]
        told = [_INDICATORS[self.indicator](each) for each in sums]
        if self.indicator == "asi-by-importance":
            told = over(told, [float(each.mean()) for each in sums])
        ranks = places([value if value > _NOISE else 0.0 for value in told])
        if self.amplitude > 0 and modules and not any(ranks):
            scene.note(_ALIKE.format(per=self.per))
        rates = {g.id: 1.0 for g in scene.candidates}
        for module, place in zip(modules, ranks, strict=True):
            rates |= {group.id: 1 + self.amplitude * place for group in module}
        return rates

    def modules(self, scene: Scene) -> list[tuple[Group, ...]]:
        """The candidates whose units are looked at together."""
        layers = {branch.id: branch.layer for branch in scene.groups.branches}
        inside = [g for g in scene.candidates if g.kind not in BLOCKS and g.block in layers]
        if self.per == "group":
            return [(group,) for group in inside]
        ordered = sorted(inside, key=lambda group: layers[str(group.block)])
        return [tuple(part) for _, part in groupby(ordered, key=lambda group: layers[str(group.block)])]


def sum_units(scores: Sequence[Tensor]) -> Tensor:
    """The scores of a module's units, one group behind the other: [parts, units]."""
    return torch.cat([each.double() for each in scores], dim=1)


def between_parts(scores: Tensor) -> float:
    """Deviation over mean of the sum over units, between parts."""
    return variation(scores.sum(1))


def between_units(scores: Tensor) -> float:
    """Deviation over mean of the mean over parts, between units."""
    return variation(scores.mean(0))


def variation(values: Tensor) -> float:
    """Deviation over mean, 0 of fewer than two values or where all are zero; equal values give 0 to the bit."""
    mean = abs(float(values.mean()))
    return float((values - values[0]).std()) / mean if len(values) > 1 and mean > 0 else 0.0


def over(values: Sequence[float], means: Sequence[float]) -> list[float]:
    """Each over its mean's share of all; one whose mean is zero has nothing to lose, and comes last."""
    whole = sum(means) / max(1, len(means))
    return [value * whole / mean if mean > 0 else float("inf") for value, mean in zip(values, means, strict=True)]


def places(values: Sequence[float]) -> list[float]:
    """The place of each value among all, from -1 for the least to 1 for the largest; equal ones have one place.

    Those are equal that differ by rounding alone.
    """
    if len(values) < 2:
        return [0.0 for _ in values]
    below = [sum(is_less(other, value) for other in values) for value in values]
    above = [sum(is_less(value, other) for other in values) for value in values]
    return [(low - high) / (len(values) - 1) for low, high in zip(below, above, strict=True)]


def is_less(one: float, other: float) -> bool:
    return one < other * (1 - _NOISE)


_INDICATORS: Mapping[Indicator, Callable[[Tensor], float]] = {
    "asi": between_parts,
    "asi-by-importance": between_parts,
    "dispersion": between_units,
}
