"""The options of pruning: what a recipe, a compilation and the pass `prune` say of it, with what each may be."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Lt

from graphprune.bounds import Count
from graphprune.ir.plan import Statistics
from graphprune.suggestions import AUTO

PRUNABLE = ("mlp", "attention", "residual", "head_dim", "query", "blocks", "experts", "vocabulary", "other")
Floor = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class Pruning:
    """How units are chosen. `importance`, `allocation` and `compensation` are specs, `kinds` is what may shrink.

    `steps` counts the rounds, of one stage where there are several; every group keeps `floor` of its width, and
    `min_units`, at least; widths are multiples of `round_to`. `uniform` gives widths that a stock checkpoint has.
    """

    importance: str = "taylor"
    allocation: str = "global"
    compensation: str | None = None
    kinds: tuple[str, ...] = (AUTO,)
    steps: Count = 1
    statistics: Statistics = "survivors"
    floor: Floor | None = None
    round_to: Count = 1
    min_units: Count = 1
    uniform: bool = False
