"""Adaptive allocation: layers that change the stream less give up more (Adapt-Pruner, arXiv 2502.03460)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

from annotated_types import Gt, Le
from torch import Tensor

from graphprune.analysis.groups import BLOCKS
from graphprune.analysis.layers import by_branch, find_layers
from graphprune.bounds import Share
from graphprune.errors import UsageError
from graphprune.pruning.interfaces import Allocation, Allotment, Scene
from graphprune.pruning.shares import cut_at_rates
from graphprune.pruning.signals.stream_change import Distance, measure_change, normalise

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
    amplitude: Share = 0.5
    distance: Distance = "cosine"
    per: Literal["layer", "branch"] = "layer"
    outside: Annotated[float, Gt(0), Le(1)] = 0.5

    def keep(self, scene: Scene, scores: Mapping[str, Tensor]) -> Allotment:
        return cut_at_rates(scene, scores, self.rates(scene))

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
