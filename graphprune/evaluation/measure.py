"""Measure: one row of a result."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """One row of the result: a quantity before and after. None stands for what was not measured."""

    name: str
    before: float | None
    after: float | None
    unit: Literal["", "bytes"] = ""
