"""Wanda importance for units: the weights that read a unit, times the size of what they read (Wanda-sp)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from graphprune.analysis.groups import Group
from graphprune.errors import UsageError
from graphprune.pruning.activations.inputs_seen import Place, Seen, column_norms, mean_weight, over_experts, see_inputs
from graphprune.pruning.activations.layer_by_layer import score_layers
from graphprune.pruning.activations.unit_inputs import UnitInputs, find_unit_inputs, score_units
from graphprune.pruning.interfaces import Importance, Scene
from graphprune.pruning.shares import even_counts, within_reach


@final
@dataclass(frozen=True)
class Wanda(Importance):
    """|W_ij| sqrt(mean x_j²) (arXiv 2306.11695) over all that a unit gives to linear calls: Wanda-sp.

    For each input j of a unit the mean over outputs i, or their sum with `reduce=sum`; a unit has the sum over its
    inputs. Moments are of the model as it is, or with `sequential`, as published, of one in which the layers before
    have lost their units already: the same share each, whatever the allocation gives in the end.
    """

    name: ClassVar[str] = "wanda"
    needs_data: ClassVar[bool] = True
    reduce: Literal["mean", "sum"] = "mean"
    sequential: bool = False

    def score(self, scene: Scene) -> dict[str, Tensor]:
        graph, groups, batches = scene.graph, scene.candidates, scene.batches
        if not batches:
            raise UsageError("wanda needs calibration text; give --data")
        read, tensors = find_unit_inputs(graph, groups, self.name), graph.tensors()

        def score(group: Group, seen: Mapping[Place, Seen]) -> Tensor:
            def entries(inputs: UnitInputs) -> Tensor:
                product = inputs.product
                norms = column_norms(product, tensors, 1)
                size = mean_weight(product, tensors) if self.reduce == "mean" else over_experts(norms)
                return size * seen[product.node, product.dim].mean_square().sqrt()

            return score_units(group, read[group.id], entries)

        if self.sequential:
            return score_layers(graph, scene.groups, read, batches, even_counts(within_reach(scene), {}), score)
        seen = see_inputs(graph, read.values(), batches)
        return {group.id: score(group, seen) for group in groups}
