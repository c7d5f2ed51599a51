"""Measure: one row of a result."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """One row of the result: a quantity before and after. None stands for what was not measured.

    What was timed is the median of `runs`, which are `spread` of it apart; `note` says how, or why there is no number.
    """

    name: str
    before: float | None
    after: float | None
    unit: Literal["", "bytes"] = ""
    runs: int | None = None
    spread: float | None = None
    note: str = ""
