"""Angular importance: the angle between the ends of a layer at the last token of each row."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from graphprune.pruning.interfaces import Importance, Scene
from graphprune.pruning.layer_runs import Run, block_runs, measure_angles, only_blocks


@final
@dataclass(frozen=True)
class Angular(Importance):
    """arccos(cos(x, x')) / pi of the stream at the last token before and after, a mean over rows (arXiv 2403.17887).

    For runs of several layers see the allocation `contiguous{by=angular}`.
    """

    name: ClassVar[str] = "angular"
    needs_data: ClassVar[bool] = True

    def score(self, scene: Scene) -> dict[str, Tensor]:
        raise only_blocks(self.name)

    def score_blocks(self, scene: Scene) -> dict[str, Tensor]:
        parts = block_runs(scene.groups, scene.candidates)
        found = measure_angles(scene, [Run.of(part) for part in parts], self.name)
        scores = {branch.id: angle for part, angle in zip(parts, found, strict=True) for branch in part}
        return {block.id: torch.tensor([scores[block.id]]) for block in scene.candidates}
