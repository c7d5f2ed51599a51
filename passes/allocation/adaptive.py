"""Adaptive allocation: layers that change the stream less give up more (Adapt-Pruner, arXiv 2502.03460)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy
from numpy.typing import NDArray
from torch import Tensor

from graphprune.analysis.groups import BLOCKS
from graphprune.analysis.layers import by_branch, find_layers
from graphprune.budget.budgets import Width, free_widths
from graphprune.budget.solver import solve
from graphprune.errors import UsageError
from graphprune.pruning.blocks import block_step, in_order, is_blocks
from graphprune.pruning.interfaces import Allocation, Allotment, Scene
from graphprune.pruning.signals.stream_change import Distance, measure_change, normalise

_LARGEST = 0.99  # no group is asked for more than this share, as in the published code
_ALIKE = (
    "adaptive found no two layers to tell apart, since what is cut lies in one layer, or in several at once as shared "
    "weights do: all give up the same share, as with uniform"
)


@final
@dataclass(frozen=True)
class Adaptive(Allocation):
    """Cut layer l by a share that grows by d (1 - amplitude I_l) in every round, with I_l in [-1, 1] its importance.

    I_l is the change that the layer makes to the stream, measured on the present model, around the mean over layers and
    over its largest deviation. d is what meets the round's budget exactly. Shares are of the source's widths and are
    carried from round to round, so that a head goes when enough of a share has come together. `distance` measures the
    change: cosine, as published, or euclidean or manhattan. `per=layer` gives all parts of a layer one importance, as
    published; `branch` measures attention and MLP apart. Groups outside the layers, such as the residual width, which
    the published method does not cut, give up the share d times `outside`. `amplitude=1` is the published 0.02 at its
    2 % a step: the most important layer is not cut at all, which stalls where the same layer stays the most important;
    the default does not. Residual branches, or layers, are cut as the units of one group of the mean layer would be:
    the lowest scores go. Where no two layers can be told apart, as with weights that all share, a note says so.
    """

    name: ClassVar[str] = "adaptive"
    needs_data: ClassVar[bool] = True
    amplitude: float = 0.5
    distance: Distance = "cosine"
    per: Literal["layer", "branch"] = "layer"
    outside: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.amplitude <= 1:
            raise UsageError(f"adaptive takes an amplitude from 0 (all layers alike) to 1, not {self.amplitude}")
        if not 0 < self.outside <= 1:
            raise UsageError(f"adaptive takes outside above 0 and up to 1 (as the mean layer), not {self.outside}")

    def keep(self, scene: Scene, scores: Mapping[str, Tensor]) -> Allotment:
        rates, full = self.rates(scene), {g.id: scene.full(g) for g in scene.candidates}
        # A group that an earlier stage of another method has cut owes nothing for what is gone.
        gone = {g.id: 1 - g.units / full[g.id] for g in scene.candidates}
        carried = {g.id: float(scene.memo.get(scene.root(g.id), gone[g.id])) for g in scene.candidates}
        widths = free_widths(scene.candidates, scene.budget)
        ranks = in_order(widths, scores)
        priorities = [
            block_step(width, 1 - ranks[place] / len(ranks)) if is_blocks(width) else steps(width, carried, full, rates)
            for place, width in enumerate(widths)
        ]
        counts = solve(scene.groups, widths, priorities, scene.budget)
        amount = refused(widths, priorities, counts)
        memo = {}
        for group in scene.candidates:
            if group.kind in BLOCKS:
                continue
            share = carried[group.id] + amount * rates[group.id]
            least = min(levels[0] for levels in (w.levels for w in widths if group in w.groups)) / full[group.id]
            memo[scene.root(group.id)] = min(share, 1 - float(least), _LARGEST)
        return Allotment(counts, memo)

    def rates(self, scene: Scene) -> Mapping[str, float]:
        """1 - amplitude * importance for each candidate."""
        if not scene.batches:
            raise UsageError("adaptive measures layers on calibration text; give --data")
        layers = find_layers(scene.groups)
        if self.per == "branch":
            layers = tuple((branch,) for branch in scene.groups.branches)
        change = measure_change(scene.graph, layers, scene.batches, self.distance)
        importance = by_branch(layers, normalise(change))
        inside = {importance.get(g.block) for g in scene.candidates if g.block is not None and g.kind not in BLOCKS}
        if self.amplitude > 0 and len(inside) < 2 and any(g.kind not in BLOCKS for g in scene.candidates):
            scene.note(_ALIKE)
        return {
            g.id: self.outside if g.block is None else 1 - self.amplitude * importance.get(g.block, 0.0)
            for g in scene.candidates
        }


def steps(
    width: Width, carried: Mapping[str, float], full: Mapping[str, int], rates: Mapping[str, float]
) -> NDArray[numpy.float64]:
    """For each step of a width, the amount d up to which it is taken: groups that share the width have their mean.

    A unit stays while the share that is kept, 1 - carried - d rate, is above the count that it starts from.
    """
    starts = width.levels[:-1].astype(numpy.float64)
    tiny = 1e-12  # where the rate is 0 any amount keeps the unit
    each = [(1 - carried[g.id] - starts / full[g.id]) / max(rates[g.id], tiny) for g in width.groups]
    return numpy.asarray(numpy.mean(each, axis=0), dtype=numpy.float64)


def refused(widths: Sequence[Width], priorities: Sequence[NDArray[numpy.float64]], counts: Mapping[str, int]) -> float:
    """The amount that was cut: the largest at which a step that was not taken would have been."""
    largest = 0.0
    for width, values in zip(widths, priorities, strict=True):
        taken = int(numpy.searchsorted(width.levels, counts[width.groups[0].id]))
        if taken < len(values):
            largest = max(largest, float(values[taken]))
    return largest
