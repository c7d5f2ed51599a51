"""What the commands print: tables for people, JSON for programs."""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphprune.amounts import show_amount
from graphprune.cli.console.terminal import say, visible
from graphprune.evaluation.measure import Measure
from graphprune.reporting.results import Result, Width

if TYPE_CHECKING:
    from graphprune.running.comparison import Check


STATES = {"ok": "ok", "care": "with care", "broken": "BROKEN"}


def print_json(data: object) -> None:
    """Print one JSON object; dataclasses become objects, paths text, and numbers that are not finite null."""
    print(json.dumps(plain(data), allow_nan=False, indent=1))


def plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int | Sequence[int] = 1
) -> None:
    """Print rows under a title; the first `left` columns, or those of these places, are text, the others numbers."""
    texts = range(left) if isinstance(left, int) else left
    table = Table(box=None, pad_edge=False, header_style="dim")
    shown = [i for i, name in enumerate(columns) if name or any(row[i] for row in rows)]
    for index, name in ((i, columns[i]) for i in shown):
        table.add_column(visible(name), justify="left" if index in texts else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(row[index])) for index in shown))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(Text(visible(title), style="bold"))
    console.print(table)
    console.print()


def print_result(result: Result, as_json: bool) -> None:
    """Print what a compilation made: measurements, widths, checks, a sample, and where it is."""
    if as_json:
        print_json(result)
        return
    if result.verdict is not None:
        say(f"{result.verdict}\n")
    print_widths(result.widths, result.dropped)
    print_checks(result.checks)
    if result.measures:
        print_table(
            "Result", ("", "before", "after", "ratio", ""), list(map(measure_row, result.measures)), left=(0, 4)
        )
    if result.sample:
        say(f"{result.sample.rstrip()}\n")
    for note in result.notes:
        say(f"note: {note}")
    seconds = result.report.get("seconds")
    took = "" if seconds is None else f" in {seconds:,.0f} s"
    say(f"written to {result.out}{took}" if result.out else "dry run: nothing was written")


def measure_row(m: Measure) -> tuple[str, ...]:
    return m.name, show_amount(m.before, m.unit), show_amount(m.after, m.unit), ratio(m), m.note


def print_widths(widths: Sequence[Width], dropped: Sequence[str]) -> None:
    rows = [(w.group, w.kind, w.block or "", f"{w.before:,}", f"{w.after:,}") for w in widths if w.before != w.after]
    rows += [(branch, "branch", branch, "1", "0") for branch in dropped]
    if rows:
        print_table("Widths", ("group", "kind", "block", "before", "after"), rows, left=3)


def print_checks(checks: Sequence["Check"]) -> None:
    if checks:
        rows = [
            (c.artefact, c.name, STATES[c.state], c.detail, small(c.difference), small(c.tolerance)) for c in checks
        ]
        print_table("Checks", ("artefact", "check", "", "", "difference", "allowed"), rows, left=4)
    advice = dict.fromkeys((c.artefact, STATES[c.state], c.advice) for c in checks if c.advice)  # once an artefact
    for artefact, state, what in advice:
        say(f"{artefact}, {state}: {what}")
    if advice:
        say()


def small(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def ratio(measure: Measure) -> str:
    if measure.before is None or measure.after is None or not measure.before:
        return ""
    return f"{measure.after / measure.before:.3f}"
