"""Fluctuation importance: what is lost when a unit's activations are replaced by their mean (FLAP)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from graphprune.analysis.groups import Group
from graphprune.errors import DataError, UsageError
from graphprune.pruning.activations.inputs_seen import Seen, column_norms, mean_weight, over_experts, see_inputs
from graphprune.pruning.activations.unit_inputs import Product, UnitInputs, find_unit_inputs, score_units
from graphprune.pruning.interfaces import Importance, Scene

Metric = Literal["wifv", "ifv", "wifn"]


@final
@dataclass(frozen=True)
class Fluctuation(Importance):
    """How much the inputs of linear calls that a unit gives fluctuate, times the weights that read them (FLAP).

    For input j of a weight W: `wifv` is var(x_j) |W_j|², which is the squared error at the outputs when x_j is replaced
    by its mean; `ifv` is var(x_j); `wifn` is mean|W_j| sqrt(mean x_j²), as in Wanda (arXiv 2312.11983). Goes with
    `compensation=bias`, which puts the means back.

    With `standardize` the inputs of a group have mean 0 and deviation 1 before a unit takes the mean of its own, so
    that layers and kinds can be ranked together: `global{normalize=none,per=unit}`. Without, a unit has the sum of its
    own. `official` squares the scores of heads first, as the published code does and the paper does not. Where all
    inputs of a group score alike, its units stand at 0, in the middle of the others.
    """

    name: ClassVar[str] = "fluctuation"
    needs_data: ClassVar[bool] = True
    metric: Metric = "wifv"
    standardize: bool = True
    official: bool = False

    def score(self, scene: Scene) -> dict[str, Tensor]:
        graph, groups, batches = scene.graph, scene.candidates, scene.batches
        if not batches:
            raise UsageError("fluctuation needs calibration text; give --data")
        read = find_unit_inputs(graph, groups, self.name)
        seen, tensors = see_inputs(graph, read.values(), batches), graph.tensors()
        if any(each.tokens < 2 for each in seen.values()):
            raise DataError("fluctuation needs 2 tokens or more to see what fluctuates; give more calibration text")

        def entries(group: Group, inputs: UnitInputs) -> Tensor:
            product = inputs.product
            found = input_scores(self.metric, product, tensors, seen[product.node, product.dim])
            found = found.square() if self.official and group.kind == "attention" else found
            return standardised(found, torch.from_numpy(inputs.owner) >= 0) if self.standardize else found

        return {g.id: score_units(g, read[g.id], partial(entries, g), self.standardize) for g in groups}


def input_scores(metric: Metric, product: Product, tensors: Mapping[str, Tensor], seen: Seen) -> Tensor:
    """The score of each input of a product: float64 [inputs]."""
    if metric == "ifv":
        return seen.variance()
    if metric == "wifn":
        return mean_weight(product, tensors) * seen.mean_square().sqrt()
    return seen.variance() * over_experts(column_norms(product, tensors, 2).square())


def standardised(values: Tensor, owned: Tensor) -> Tensor:
    """Values around the mean of those that are owned, over their deviation; 0 where they are all alike."""
    mean, deviation = values[owned].mean(), values[owned].std() if int(owned.sum()) > 1 else values.new_zeros(())
    return (values - mean) / deviation if float(deviation) > 0 else torch.zeros_like(values)
