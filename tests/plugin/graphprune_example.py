"""An importance of a third party: keep the first units of every group."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch


@final
@dataclass(frozen=True)
class FirstUnits:
    """Keep the first units, or with `reverse` the last ones: the least one can write and be a method."""

    name: ClassVar[str] = "first-units"
    reverse: bool = False

    def score(self, graph: Any, groups: Any, calibration: Any) -> dict[str, torch.Tensor]:
        counts = {group.id: torch.arange(group.units, dtype=torch.float64) for group in groups.prunable()}
        return counts if self.reverse else {id: -count for id, count in counts.items()}
