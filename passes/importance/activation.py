"""Activation importance: how large what a unit gives to others is (Minitron)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor

from graphprune.analysis.groups import Group
from graphprune.errors import DataError, UsageError
from graphprune.pruning.activations.inputs_seen import along
from graphprune.pruning.activations.observe import Reading, observe
from graphprune.pruning.activations.reductions import Mean, magnitudes
from graphprune.pruning.activations.unit_inputs import UnitInputs, find_unit_inputs, score_units
from graphprune.pruning.interfaces import Importance, Scene


@final
@dataclass(frozen=True)
class Activation(Importance):
    """The size of the activations that a unit gives to linear calls, from forward passes alone (arXiv 2407.14679).

    For each channel the mean of |x| over the tokens of a row (`tokens=mean`, or `l2`), then the root of the sum of its
    squares over all rows (`rows=l2`, or `mean`). A head has the root of the sum of squares over its channels; a channel
    of the residual width the sum over all norms that linear calls read, so that there is one ranking for the whole
    model. Scores depend on how the text is split into rows.
    """

    name: ClassVar[str] = "activation"
    needs_data: ClassVar[bool] = True
    tokens: Mean = "mean"
    rows: Mean = "l2"

    def score(self, scene: Scene) -> dict[str, Tensor]:
        graph, groups, batches = scene.graph, scene.candidates, scene.batches
        if not batches:
            raise UsageError("activation needs calibration text; give --data")
        read = {id: distinct(each) for id, each in find_unit_inputs(graph, groups, self.name).items()}
        places = dict.fromkeys(place_of(inputs) for each in read.values() for inputs in each)
        reduce = partial(magnitudes, over_tokens=self.tokens, over_rows=self.rows)
        found = observe(graph, {p: Reading(p[:1], partial(along, p[1], reduce)) for p in places}, batches)
        if not all(bool(torch.isfinite(each).all()) for each in found.values()):
            raise DataError("the activations are not finite; check the weights and the calibration data")
        # What is summed over rows: squares, or sizes whose squares are summed over the inputs of a unit.
        energy = {place: each if self.rows == "l2" else each.square() for place, each in found.items()}

        def size(group: Group, inputs: UnitInputs) -> Tensor:
            return score_units(group, [inputs], lambda inputs: energy[place_of(inputs)]).sqrt()

        return {g.id: torch.stack([size(g, inputs) for inputs in read[g.id]]).sum(0) for g in groups}


def place_of(inputs: UnitInputs) -> tuple[str, int]:
    return inputs.product.node, inputs.product.dim


def distinct(read: Sequence[UnitInputs]) -> tuple[UnitInputs, ...]:
    """One for each value that is read: what several products read counts once."""
    return tuple({(*place_of(inputs), inputs.owner.tobytes()): inputs for inputs in reversed(read)}.values())[::-1]
