"""An importance of a third party: keep the first units of every group."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from graphprune.pruning.interfaces import Importance, Scene


@final
@dataclass(frozen=True)
class FirstUnits(Importance):
    """Keep the first units, or with `reverse` the last ones: the least one can write and be a method."""

    name: ClassVar[str] = "first-units"
    needs_data: ClassVar[bool] = False
    reverse: bool = False

    def score(self, scene: Scene) -> dict[str, torch.Tensor]:
        sign = 1.0 if self.reverse else -1.0
        return {group.id: sign * torch.arange(group.units, dtype=torch.float32) for group in scene.candidates}
