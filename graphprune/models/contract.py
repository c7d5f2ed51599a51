"""Contract: what a captured function takes and returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Contract:
    """What the captured function takes and returns: names in order, examples, and the name of each symbolic size.

    `dynamic[name]` maps a dimension to a symbol's name or to an expression over symbols (`past + sequence`, `4*batch`).
    """

    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...] | None = None
    maximum: Mapping[str, int] = field(default_factory=dict)
