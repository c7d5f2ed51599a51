"""Wanda importance for units: the weights that read a unit, times the size of what they read (Wanda-sp)."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from graphprune.errors import UsageError
from graphprune.pruning.activations.inputs_seen import column_norms, mean_weight, over_experts, see_inputs
from graphprune.pruning.activations.unit_inputs import UnitInputs, find_unit_inputs, score_units
from graphprune.pruning.interfaces import Importance, Scene


@final
@dataclass(frozen=True)
class Wanda(Importance):
    """|W_ij| sqrt(mean x_j²) (arXiv 2306.11695) over all that a unit gives to linear calls: Wanda-sp.

    For each input j of a unit the mean over outputs i, or their sum with `reduce=sum`; a unit has the sum over its
    inputs. Moments are of the model as it is: later layers are not measured anew on what earlier ones lost, as the
    published code does; several `steps` do that for all.
    """

    name: ClassVar[str] = "wanda"
    needs_data: ClassVar[bool] = True
    reduce: Literal["mean", "sum"] = "mean"

    def score(self, scene: Scene) -> dict[str, Tensor]:
        graph, groups, batches = scene.graph, scene.candidates, scene.batches
        if not batches:
            raise UsageError("wanda needs calibration text; give --data")
        read = find_unit_inputs(graph, groups, self.name)
        seen, tensors = see_inputs(graph, read.values(), batches), graph.tensors()

        def entries(inputs: UnitInputs) -> Tensor:
            product = inputs.product
            norms = column_norms(product, tensors, 1)
            size = mean_weight(product, tensors) if self.reduce == "mean" else over_experts(norms)
            return size * seen[product.node, product.dim].mean_square().sqrt()

        return {group.id: score_units(group, read[group.id], entries) for group in groups}
