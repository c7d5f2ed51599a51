"""Block influence: how far a layer, or a residual branch, turns the stream (ShortGPT)."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from graphprune.pruning.interfaces import Importance, Scene
from graphprune.pruning.layer_runs import only_blocks


@final
@dataclass(frozen=True)
class BlockInfluence(Importance):
    """1 - cos(x, x') of the stream before and after a layer or a branch, a mean over tokens (arXiv 2403.03853).

    What adds nothing scores exactly 0, and so does a token whose cosine is not a number; a note says where.
    """

    name: ClassVar[str] = "block-influence"
    needs_data: ClassVar[bool] = True

    def score(self, scene: Scene) -> dict[str, Tensor]:
        raise only_blocks(self.name)
