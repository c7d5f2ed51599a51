"""Magnitude importance: units with large weights matter."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from graphprune.errors import UsageError
from graphprune.pruning.interfaces import Importance, Scene
from graphprune.pruning.signals.unit_sums import score_groups


@final
@dataclass(frozen=True)
class Magnitude(Importance):
    """The sum of |w|^p over every parameter entry that a unit owns, biases and norms included, buffers not.

    `reduction=mean` divides by the number of those entries, which makes groups of different shapes comparable. No root
    is taken, as in LLM-Pruner (arXiv 2305.11627).
    """

    name: ClassVar[str] = "magnitude"
    needs_data: ClassVar[bool] = False
    p: int = 2
    reduction: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p not in (1, 2):
            raise UsageError(f"magnitude takes p=1 or 2, not p={self.p}")

    def score(self, scene: Scene) -> dict[str, Tensor]:
        graph, groups = scene.graph, scene.candidates
        parameters = graph.parameters()

        def powers(name: str) -> Tensor:
            return parameters[name].detach().float().abs() ** self.p

        totals = score_groups(graph, groups, powers, "element")
        if self.reduction == "mean":
            entries = score_groups(graph, groups, lambda name: torch.ones(parameters[name].shape), "element")
            totals = {id: total / entries[id].clamp(min=1) for id, total in totals.items()}
        return {id: total.float() for id, total in totals.items()}
