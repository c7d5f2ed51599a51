"""What the commands print: tables for people, JSON for programs, progress on stderr."""

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from graphprune.amounts import show_amount
from graphprune.cli.terminal import say, visible, warn
from graphprune.evaluation.measure import Measure
from graphprune.progress import Progress
from graphprune.reporting.results import Result, Width

if TYPE_CHECKING:
    from graphprune.running.comparison import Check


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


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print rows under a title; the first `left` columns are text, the others numbers."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index, name in enumerate(columns):
        table.add_column(visible(name), justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(Text(visible(title), style="bold"))
    console.print(table)
    console.print()


@contextlib.contextmanager
def progress_on_stderr() -> Iterator[Progress]:
    """Show each stage on stderr: bars on a terminal, elsewhere one line a stage, or twenty where it says how it goes.

    What follows `: ` in the name of a stage is how it goes.
    """
    console = Console(file=sys.stderr)  # bound now: a capture redirects stderr, and the bars go on
    if not console.is_terminal:
        yield lines_of_stages()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        yield bars_of_stages(bars)


def lines_of_stages() -> Progress:
    seen: dict[str, int] = {}

    def report(stage: str, done: int, total: int) -> None:
        name, colon, _ = stage.partition(": ")
        twentieth = 20 * done // total if colon and total else 0
        if seen.get(name, -1) < twentieth:
            seen[name] = twentieth
            warn(stage)

    return report


def bars_of_stages(bars: Bars) -> Progress:
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int) -> None:
        name = stage.partition(": ")[0]
        if name not in tasks:
            for task in tasks.values():
                bars.stop_task(task)
            tasks[name] = bars.add_task("", total=total or None)
        bars.update(tasks[name], description=Text(visible(stage)).markup, completed=done, total=total or None)

    return report


def print_result(result: Result, as_json: bool) -> None:
    """Print what a compilation made: measurements, widths, checks, a sample, and where it is."""
    if as_json:
        print_json(result)
        return
    print_widths(result.widths, result.dropped)
    print_checks(result.checks)
    if result.measures:
        rows = [
            (m.name, show_amount(m.before, m.unit), show_amount(m.after, m.unit), ratio(m)) for m in result.measures
        ]
        print_table("Result", ("", "before", "after", "ratio"), rows)
    if result.sample:
        say(f"{result.sample.rstrip()}\n")
    for note in result.notes:
        say(f"note: {note}")
    say(f"written to {result.out}" if result.out else "dry run: nothing was written")


def print_widths(widths: Sequence[Width], dropped: Sequence[str]) -> None:
    rows = [(w.group, w.kind, w.block or "", f"{w.before:,}", f"{w.after:,}") for w in widths if w.before != w.after]
    rows += [(branch, "branch", branch, "1", "0") for branch in dropped]
    if rows:
        print_table("Widths", ("group", "kind", "block", "before", "after"), rows, left=3)


def print_checks(checks: Sequence["Check"]) -> None:
    if checks:
        rows = [
            (c.artefact, c.name, "ok" if c.passed else "FAILED", c.detail, small(c.difference), small(c.tolerance))
            for c in checks
        ]
        print_table("Checks", ("artefact", "check", "", "", "difference", "allowed"), rows, left=4)


def small(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def ratio(measure: Measure) -> str:
    if measure.before is None or measure.after is None or not measure.before:
        return ""
    return f"{measure.after / measure.before:.3f}"
