"""Order importance: what comes first stays; the layers at the end go (the layer mode of LLM-Pruner)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from graphprune.pruning.interfaces import Importance, Scene


@final
@dataclass(frozen=True)
class Order(Importance):
    """Units, residual branches and layers by their place in the model: the first n stay (arXiv 2305.11627)."""

    name: ClassVar[str] = "order"
    needs_data: ClassVar[bool] = False

    def score(self, scene: Scene) -> dict[str, Tensor]:
        return {group.id: -torch.arange(group.units, dtype=torch.float32) for group in scene.candidates}

    def score_blocks(self, scene: Scene) -> dict[str, Tensor]:
        places = {branch.id: place for place, branch in enumerate(scene.groups.branches)}
        return {block.id: torch.tensor([-float(places[block.tie or block.id])]) for block in scene.candidates}
