"""Magnitude importance: units with large weights matter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from graphprune.analysis.groups import Group
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.pruning.activations.inputs_seen import column_norms, over_experts
from graphprune.pruning.activations.unit_inputs import UnitInputs, find_unit_inputs, score_units
from graphprune.pruning.interfaces import Importance, Scene
from graphprune.pruning.signals.unit_sums import Reduction, lay_out, require_members, score_groups


@final
@dataclass(frozen=True)
class Magnitude(Importance):
    """The sum of |w|^p over every parameter entry that a unit owns, biases and norms included, buffers not.

    `reduction=mean` divides by the number of those entries, which makes groups of different shapes comparable. No root
    is taken, as in LLM-Pruner (arXiv 2305.11627). `members` says how the weights that a unit is in make its score, as
    in `taylor`.
    `of=columns` looks only at the weights that read the unit, and takes the p-norm of each of their columns, as
    magnitude-sp does (beside FLAP, arXiv 2312.11983): a unit has the sum, or the mean, over its columns.
    """

    name: ClassVar[str] = "magnitude"
    needs_data: ClassVar[bool] = False
    p: Literal[1, 2] = 2
    reduction: Literal["sum", "mean"] = "sum"
    members: Reduction = "sum"
    of: Literal["all", "columns"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reduction == "mean" and self.members != "sum":
            raise UsageError("magnitude{reduction=mean} is over all entries of a unit; leave members out")
        if self.of == "columns" and self.members != "sum":
            raise UsageError("magnitude{of=columns} is of one weight at a time; leave members out")

    def score(self, scene: Scene) -> dict[str, Tensor]:
        if self.of == "columns":
            return self.score_columns(scene.graph, scene.candidates)
        graph, groups = scene.graph, scene.candidates
        parameters = graph.parameters()

        def powers(name: str) -> Tensor:
            return parameters[name].detach().float().abs() ** self.p

        require_members(lay_out(graph, groups), self.members, self.name)
        totals = score_groups(graph, groups, powers, "element", self.members)
        if self.reduction == "mean":
            entries = score_groups(graph, groups, lambda name: torch.ones(parameters[name].shape), "element")
            totals = {id: total / entries[id].clamp(min=1) for id, total in totals.items()}
        return {id: total.float() for id, total in totals.items()}

    def score_columns(self, graph: Graph, groups: Sequence[Group]) -> dict[str, Tensor]:
        """The norms of the columns by which the units are read."""
        tensors, read = graph.tensors(), find_unit_inputs(graph, groups, "magnitude{of=columns}")

        def norms(inputs: UnitInputs) -> Tensor:
            return over_experts(column_norms(inputs.product, tensors, self.p))

        return {g.id: score_units(g, read[g.id], norms, self.reduction == "mean") for g in groups}
