"""Gate sets: the gates of one group, or one for each layer, and how many of them are to stay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.analysis.groups import BLOCKS, Group
from graphprune.errors import UsageError
from graphprune.gates.hard_concrete import least_share


@dataclass(frozen=True)
class GateSet:
    """Gates [units] of which `keep` are to stay.

    `members` are the candidates that they are of: one group, whose units they are, or for each gate the residual
    branches of a layer.
    """

    name: str
    kind: str
    units: int
    keep: int
    members: tuple[tuple[str, ...], ...]

    @property
    def sparsity(self) -> float:
        """The share that is to go."""
        return 1 - self.keep / self.units

    def values(self, factors: Tensor) -> dict[str, Tensor]:
        """The factors of each candidate."""
        if self.kind not in BLOCKS:
            return {self.members[0][0]: factors}
        return {id: factors[place : place + 1] for place, ids in enumerate(self.members) for id in ids}

    def chosen(self, position: Tensor) -> Tensor:
        """Which gates stay, as ones and zeros: exactly as many as are to, those of the highest positions."""
        order = torch.sort(position.detach(), descending=True, stable=True).indices
        return torch.zeros_like(position).detach().index_fill(0, order[: self.keep], 1.0)


def sets_of(candidates: Sequence[Group], counts: Mapping[str, int], layers: int, temperature: float) -> list[GateSet]:
    """The sets of the groups that are to shrink to these counts, and of the layers where so many are to stay.

    Raises UsageError for a share that gates cannot come to.
    """
    units = [g for g in candidates if g.kind not in BLOCKS and counts.get(g.id, g.units) < g.units]
    found = [GateSet(g.id, g.kind, g.units, counts[g.id], ((g.id,),)) for g in units]
    tied = dict[str, list[str]]()
    for block in (g for g in candidates if g.kind in BLOCKS):
        tied.setdefault(block.tie or block.id, []).append(block.id)
    if 0 < layers < len(tied):
        found.append(GateSet("layers", "layers", len(tied), layers, tuple(map(tuple, tied.values()))))
    for each in found:
        if each.keep / each.units < least_share(temperature):
            raise UsageError(
                f"gates cannot learn to keep {each.keep} of {each.units} units of {each.name}: their probabilities "
                f"stay above {least_share(temperature):.3f}; cut in two passes, or raise the target"
            )
    return found
