"""Results: what a compilation answers, as plain values shared by the library and the command line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphprune.evaluation.measure import Measure

if TYPE_CHECKING:
    from graphprune.reporting.verdict import Verdict
    from graphprune.running.comparison import Check


@dataclass(frozen=True)
class Width:
    """The width of one group before and after, for the table of widths per layer."""

    group: str
    kind: str
    block: str | None
    before: int
    after: int


@dataclass(frozen=True)
class Result:
    """What a compilation made: where it is (None for a dry run), the measurements, the widths, the checks.

    `sample` is how the result goes on from a text, `samples` that of the source and of the result.
    `verdict` says how much quality is left; None for a dry run.
    `report` is everything as plain data, which is also what `graphprune/report.json` in OUT holds.
    """

    out: Path | None
    measures: tuple[Measure, ...] = ()
    widths: tuple[Width, ...] = ()
    dropped: tuple[str, ...] = ()
    checks: tuple["Check", ...] = ()
    notes: tuple[str, ...] = ()
    sample: str = ""
    samples: tuple[tuple[str, str], ...] = ()
    verdict: "Verdict | None" = None
    report: Mapping[str, Any] = field(default_factory=dict)
