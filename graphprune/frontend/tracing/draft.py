"""Draft: a graph between the exported program and the `Graph`, which clean-ups change in place."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, fx


@dataclass(frozen=True, eq=False)
class Draft:
    """The nodes, each with its type, and the tensors that they read, by name.

    `changed` are tensors of the model that a run leaves changed, each with the node that it becomes; those in `own`,
    the model's parameters, may change.
    """

    graph: fx.Graph
    tensors: dict[str, Tensor]
    changed: Mapping[str, fx.Node] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
