"""The options of pruning: what a recipe, a compilation and the pass `prune` say of it, with what each may be."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Lt

from graphprune.bounds import Count
from graphprune.errors import UsageError
from graphprune.ir.plan import Statistics
from graphprune.runtimes.known import RuntimeName, find_runtime
from graphprune.runtimes.runtime import Runtime
from graphprune.suggestions import AUTO, check_choice

PRUNABLE = ("mlp", "attention", "residual", "head_dim", "query", "blocks", "layers", "experts", "vocabulary", "other")
WHOLE = ("blocks", "layers")  # of these, what goes as a whole
_EVEN = 8  # what kernels of processors take at a time
Floor = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class Pruning:
    """How units are chosen. `importance`, `allocation` and `compensation` are specs, `kinds` is what may shrink.

    `steps` counts the rounds, of one stage where there are several; every group keeps `floor` of its width, and
    `min_units`, at least; widths are multiples of `round_to`; without a number of what hardware likes, 8 or what the
    runtime does, where a width has many. `uniform` gives widths that a stock checkpoint has.
    `scope` is a regular expression that the module's name of what may shrink has in it; of the layers, so many of the
    first and of the last stay whole as `protect` says, or such a share of all, rounded down, where it is below 1.
    `within` are shares of units that all groups of a kind keep together at least, `attention=0.8`. `runtime` is the one
    whose stock model the result is to fit, see `graphprune.runtimes`.
    """

    importance: str = "taylor"
    allocation: str = "global"
    compensation: str | None = None
    kinds: tuple[str, ...] = (AUTO,)
    steps: Count = 1
    statistics: Statistics = "survivors"
    floor: Floor | None = None
    round_to: Count | None = None
    min_units: Count = 1
    uniform: bool = False
    scope: str | None = None
    protect: tuple[float, ...] = (0, 0)
    within: tuple[str, ...] = ()
    runtime: RuntimeName | None = None

    def check(self) -> None:
        """Raise UsageError for what no type says."""
        if len(self.protect) != 2 or not all(0 <= end < math.inf for end in self.protect):
            raise UsageError(f"protect is two numbers of layers, of the first and of the last, not {self.protect}")
        if any(end >= 1 and end % 1 for end in self.protect):
            raise UsageError(f"protect is whole numbers of layers, or shares of all below 1, not {self.protect}")
        try:
            re.compile(self.scope or "")
        except re.error as error:
            raise UsageError(f"scope is a regular expression, which {self.scope} is not: {error}") from error
        _ = self.shares

    @property
    def wanted(self) -> Runtime | None:
        """The runtime that the result is to fit."""
        return find_runtime(self.runtime) if self.runtime else None

    @property
    def even(self) -> int:
        """What widths are a multiple of where nobody said of what, as far as it costs little."""
        if self.round_to is not None:
            return 1
        return self.wanted.even if self.wanted is not None else _EVEN

    @property
    def equal_layers(self) -> bool:
        """Whether the widths are to be those of a stock checkpoint."""
        return self.uniform or (self.wanted is not None and self.wanted.stock)

    @property
    def ends(self) -> tuple[float, float]:
        """How many of the first and of the last layers stay whole, or which share."""
        first, last = self.protect
        return first, last

    @property
    def shares(self) -> Mapping[str, float]:
        """`within` as numbers. Raises UsageError."""
        return dict(read_share(text) for text in self.within)


def read_share(text: str) -> tuple[str, float]:
    """A kind and the share of its units that stays: `attention=0.8` or `attention=80%`. Raises UsageError."""
    kind, _, amount = text.partition("=")
    check_choice("within", kind, PRUNABLE)
    try:
        share = float(amount.removesuffix("%")) / (100 if amount.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"within {text[:40]}: write a kind and the share of its units that stays, attention=80%")
    return kind, share
