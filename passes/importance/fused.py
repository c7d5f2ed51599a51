"""Fused importance: vectors and entries in one score, each counted by how little it differs between parts (SAAP)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from annotated_types import Ge
from torch import Tensor

from graphprune.errors import UsageError
from graphprune.pruning.interfaces import Importance, Scene
from graphprune.pruning.signals.part_scores import part_scores

_STEADY = 1e-12  # variances below are of rounding


@final
@dataclass(frozen=True)
class Fused(Importance):
    """I_v / (2 s_v²) + I_e / (2 s_e²): vector-wise and element-wise importance, fused by their uncertainty.

    I_v is |gᵀw - wᵀHw/2| summed over the rows and columns w that a unit owns, I_e the sum of |g w - H_ww w²/2| over
    their entries, H being the mean over samples of the gradients' outer products; `order=first` leaves H out. Both are
    taken on each of `parts` parts of the text, divided by their mean over the units of the group, and s² is the mean
    over all units of the variance between parts. A unit's score is the mean over parts, times the mean I_e of its
    group's units, which leaves the order in the group and makes groups compare as their I_e do.

    After SAAP (arXiv 2412.15127): that importances are weighed as in Kendall's homoscedastic uncertainty is what is
    told of the paper, how sigma is fitted is not; the variance between parts is our reading. Its terms log s, which
    are the same for all units, are left out.
    """

    name: ClassVar[str] = "fused"
    needs_data: ClassVar[bool] = True
    order: Literal["first", "mixed"] = "mixed"
    parts: Annotated[int, Ge(2)] = 8

    @property
    def averaged_parts(self) -> int:
        return self.parts

    def score(self, scene: Scene) -> dict[str, Tensor]:
        return {id: parts.mean(0).float() for id, parts in self.score_parts(scene, self.parts).items()}

    def score_parts(self, scene: Scene, count: int) -> dict[str, Tensor]:
        if not scene.batches:
            raise UsageError("fused needs calibration text; give --data")
        found = part_scores(scene, count, self.order)
        return fuse(found.vector, found.element)


def fuse(vector: Mapping[str, Tensor], element: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One score of both kinds, [parts, units] in float64 by id.

    Where parts do not differ, or there is one, nothing tells how sure a kind is, and both count alike.
    """
    kinds = [{id: over_mean(scores) for id, scores in kind.items()} for kind in (vector, element)]
    variances = [between_parts(kind) for kind in kinds]
    known = min(variances) > _STEADY
    weights = [1 / (2 * variance) if known else 0.5 for variance in variances]
    levels = {id: float(scores.mean()) for id, scores in element.items()}
    return {id: levels[id] * (weights[0] * kinds[0][id] + weights[1] * kinds[1][id]) for id in vector}


def over_mean(scores: Tensor) -> Tensor:
    """Scores over their mean; those that are all zero as they are."""
    mean = scores.mean()
    return scores / mean if float(mean) > 0 else scores


def between_parts(scores: Mapping[str, Tensor]) -> float:
    """The variance between parts, a mean over the units of all groups."""
    found = [each.var(0) for each in scores.values() if len(each) > 1]
    return float(torch.cat(found).mean()) if found else 0.0
