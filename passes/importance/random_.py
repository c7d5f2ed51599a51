"""Random importance: the baseline that every method has to beat."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from graphprune.analysis.groups import Group
from graphprune.ir.graph import Graph
from graphprune.pruning.interfaces import Importance
from graphprune.running.inputs import Batch
from graphprune.running.loss import Loss


@final
@dataclass(frozen=True)
class Random(Importance):
    """A uniform score for every unit, fixed by `seed` and the group's id alone."""

    name: ClassVar[str] = "random"
    needs_data: ClassVar[bool] = False
    seed: int = 0

    def score(
        self, graph: Graph, groups: Sequence[Group], batches: Sequence[Batch] = (), loss: Loss | None = None
    ) -> dict[str, Tensor]:
        return {group.id: draw(f"{self.seed} {group.id}", group.units) for group in groups}


def draw(key: str, units: int) -> Tensor:
    """Uniform numbers [units] that depend on the key alone."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big", signed=True)
    return torch.rand(units, generator=torch.Generator().manual_seed(seed))
