"""Random importance: the baseline that every method has to beat."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from graphprune.pruning.interfaces import Importance, Scene


@final
@dataclass(frozen=True)
class Random(Importance):
    """A uniform score for every unit, fixed by `seed` and the group's id alone."""

    name: ClassVar[str] = "random"
    needs_data: ClassVar[bool] = False
    seed: int = 0

    def score(self, scene: Scene) -> dict[str, Tensor]:
        return {group.id: draw(f"{self.seed} {group.id}", group.units) for group in scene.candidates}

    def score_blocks(self, scene: Scene) -> dict[str, Tensor]:
        return {block.id: draw(f"{self.seed} {block.tie or block.id}", 1) for block in scene.candidates}


def draw(key: str, units: int) -> Tensor:
    """Uniform numbers [units] that depend on the key alone."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big", signed=True)
    return torch.rand(units, generator=torch.Generator().manual_seed(seed))
