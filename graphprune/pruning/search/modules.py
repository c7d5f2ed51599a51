"""Modules: heads by themselves and channels in groups, which are taken out together to see what is lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.analysis.groups import Group
from graphprune.pruning.search.mask_probe import Mask

_NUANCE = 1e-4
HEADS = frozenset({"attention", "query"})


@dataclass(frozen=True, eq=False)
class Module:
    """Units of one candidate, or of several of a kind, by the candidates' ids."""

    units: Mapping[str, Tensor]

    def mask(self, candidates: Sequence[Group], like: Tensor) -> Mask:
        """Factors that leave this module out: 0 for its units and 1 for all others."""
        whole = {group.id: like.new_ones(group.units) for group in candidates}
        return {
            id: one.index_fill(0, self.units[id].to(one.device), 0) if id in self.units else one
            for id, one in whole.items()
        }


def find_modules(
    candidates: Sequence[Group], ranks: Mapping[str, Tensor], parts: int, shared: bool
) -> tuple[Module, ...]:
    """Each head by itself; of other candidates the units in the order of `ranks`, best first, cut into `parts`.

    With `shared` the part of one rank is of all candidates of a kind together, so that there are `parts` of each kind.
    """
    found: list[Module] = []
    together: dict[tuple[str, int], dict[str, Tensor]] = {}
    for group in candidates:
        if group.kind in HEADS:
            found += [Module({group.id: torch.tensor([unit])}) for unit in range(group.units)]
            continue
        order = torch.argsort(ranks[group.id], descending=True, stable=True)
        for rank, units in enumerate(order.tensor_split(min(parts, group.units))):
            if shared:
                together.setdefault((group.kind, rank), {})[group.id] = units
            else:
                found.append(Module({group.id: units}))
    return (*found, *map(Module, together.values()))


def share_errors(
    candidates: Sequence[Group], modules: Sequence[Module], errors: Sequence[float], ranks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The score of every unit: the error of its module over the units that this has; among equals the better rank.

    What ranks add is less than half of the least difference of two errors in a candidate, and a ten-thousandth of the
    largest; nothing to a rank of 0.
    """
    found = {group.id: torch.zeros(group.units, dtype=torch.float64) for group in candidates}
    for module, error in zip(modules, errors, strict=True):
        count = sum(map(len, module.units.values()))
        for id, units in module.units.items():
            found[id][units] = error / count
    return {
        id: (values + nuance(values, ranks[id])).float() if id in ranks else values.float()
        for id, values in found.items()
    }


def nuance(values: Tensor, ranks: Tensor) -> Tensor:
    """A little more for a better rank, never so much that two different values change places."""
    apart = torch.unique(values).diff()
    small = _NUANCE * values.abs().max()
    room = torch.minimum(apart.min() / 2, small) if len(apart) else small
    largest = ranks.double().abs().max()
    return ranks.double() * (room / largest) if largest > 0 else torch.zeros_like(values)
