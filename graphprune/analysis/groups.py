"""Groups: the units that must be removed together, with every place that they occupy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy
from numpy.typing import NDArray

from graphprune.analysis.cost import Costs

Kind = Literal[
    "mlp", "attention", "query", "head_dim", "residual", "experts", "vocabulary", "other", "blocks", "layers"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
BLOCKS: frozenset[Kind] = frozenset({"blocks", "layers"})  # kinds of one unit: a residual branch, or one of a layer


@dataclass(frozen=True, eq=False)
class Slot:
    """One dimension of a parameter or buffer that carries a group: `owner[i]` is the unit that owns index i, or -1."""

    name: str
    dim: int
    owner: NDArray[numpy.int64]

    def indices(self, unit: int) -> NDArray[numpy.int64]:
        """The indices along `dim` that this unit owns."""
        return numpy.flatnonzero(self.owner == unit)


@dataclass(frozen=True)
class Constant:
    """An integer in the graph that follows the group's width: the node's name and where it stands in its arguments."""

    node: str
    path: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Group:
    """Units that can only be removed together. Permuting them in all slots leaves the function unchanged.

    `id` is stable across runs and rewrites: the first slot in graph order, and the place of the axis in it.
    `block` is the residual branch that the group lives in, None for one that spans several. `locked` says why no unit
    may be removed. `averaged` says that a norm or a mean runs over the units, so that cutting is not masking.
    `chosen` says that the model chooses among the units as it runs: a removed one is absent, not zero. At least
    `least` units stay; `multiple` is what the number of units kept should be a multiple of, for kernels to run on it.
    Groups with one `tie` keep the same count.
    """

    id: str
    units: int
    slots: tuple[Slot, ...]
    constants: tuple[Constant, ...]
    kind: Kind
    scope: str
    block: str | None
    averaged: bool
    locked: str | None
    chosen: bool = False
    least: int = 1
    multiple: int = 1
    tie: str | None = None


@dataclass(frozen=True)
class Branch:
    """A residual branch: what an addition puts on top of its skip operand; it can be dropped as a whole.

    `layer` is the number of its block of the model, counted through all streams.
    """

    id: str
    add: str
    branch: str
    skip: str
    caches: tuple[str, ...]
    layer: int = 0


@dataclass(frozen=True, eq=False)
class Groups:
    """All groups of a graph in graph order, its branches, and its cost as polynomials over their ids."""

    groups: tuple[Group, ...]
    branches: tuple[Branch, ...]
    costs: Costs

    def __getitem__(self, id: str) -> Group:
        return self.by_id()[id]

    def by_id(self) -> Mapping[str, Group]:
        return {group.id: group for group in self.groups}

    def sizes(self) -> dict[str, int]:
        """The present value of every variable of the cost: each group's units, and 1 for each branch."""
        return {g.id: g.units for g in self.groups} | {b.id: 1 for b in self.branches}

    def prunable(self, kinds: frozenset[str] = frozenset(KINDS)) -> tuple[Group, ...]:
        """The groups of these kinds that are not locked and have more units than they must keep."""
        return tuple(g for g in self.groups if g.kind in kinds and g.locked is None and g.units > g.least)
