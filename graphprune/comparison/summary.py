"""Rows: what the seeds of a method come to at one target, what may be compared, and which is best."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from graphprune.comparison.schema import Cell, Cost, Measured, Row, Spread, State, TaskResult

_BELOW = 0.01  # of the target: what lies further under it is said


def make_rows(
    cells: Sequence[Cell], methods: Sequence[str], targets: Sequence[str], tokens: Sequence[int], tasks: Sequence[str]
) -> list[Row]:
    """One row for each number of tokens, target and method, in this order; the best of each table is marked."""
    rows: list[Row] = []
    for count, target in product(tokens, targets):
        found = []
        for method in methods:
            own = [c for c in cells if (c.method, c.target, c.tokens) == (method, target, count)]
            found.append(make_row(own, method, target, count, tasks))
        rows += mark_best(found)
    return rows


def make_row(cells: Sequence[Cell], method: str, target: str, tokens: int, tasks: Sequence[str]) -> Row:
    """The row of the cells of all seeds. One that is above its target makes the row one that is not compared."""
    done = [cell.measured for cell in cells if cell.measured is not None]
    state, note = judge(cells, done)
    bits = [each.bits_per_byte for each in done]
    scores = {name: mean for name in tasks if (mean := mean_of(task_value(each, name) for each in done)) is not None}
    return Row(
        method=method,
        target=target,
        tokens=tokens,
        state=state,
        note=note,
        seeds=len(done),
        parameters=spread([each.parameters for each in done]),
        bits_per_byte=spread(bits),
        perplexity=exponential(mean_of(each.nats_per_token for each in done)),
        tasks=scores,
        accuracy=mean_of(scores.values()) if scores and len(scores) == len(tasks) else None,
        cut_seconds=mean_cost([each.cut for each in done]),
        training_seconds=mean_cost([each.training for each in done]) if tokens else None,
        peak=max((each.peak_made for each in done), default=None),
        device_peak=max((each.device_peak for each in done if each.device_peak is not None), default=None),
        best=False,
    )


def judge(cells: Sequence[Cell], done: Sequence[Measured]) -> tuple[State, str]:
    """Whether a row may be compared, and what is to be said of it."""
    above = [each for each in done if each.parameters > each.wanted]
    if above:
        most = max(each.parameters / each.wanted - 1 for each in above)
        return "above", f"refused: {max(most, 1e-4):.2%} more parameters than the target"
    failed = [cell for cell in cells if cell.measured is None]
    if failed:
        which = f"seed {', '.join(str(cell.seed) for cell in failed)}: " if len(cells) > 1 else ""
        return "failed", f"{which}{failed[0].error}"
    least = min((each.parameters / each.wanted for each in done), default=1.0)
    if least < 1 - _BELOW:
        return "below", f"{1 - least:.1%} fewer parameters than the target allows"
    return "ok", ""


def mark_best(rows: Sequence[Row]) -> list[Row]:
    """The rows, the one with the least bits per byte marked, of those that may be compared."""
    able = [row.bits_per_byte.mean for row in rows if row.bits_per_byte is not None and row.state in ("ok", "below")]
    least = min(able, default=None)

    def is_best(row: Row) -> bool:
        own = row.bits_per_byte
        return row.state in ("ok", "below") and own is not None and own.mean == least

    return [row.model_copy(update={"best": is_best(row)}) for row in rows]


def task_value(measured: Measured, task: str) -> float | None:
    """The accuracy on a task, or its first metric where it has none."""
    found = main_metric(measured.tasks, task)
    return None if found is None else found.value


def main_metric(results: Sequence[TaskResult], task: str) -> TaskResult | None:
    own = [each for each in results if each.task == task]
    return next((each for each in own if each.metric == "acc"), own[0] if own else None)


def spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(mean=statistics.fmean(values), deviation=deviation, least=min(values), most=max(values))


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean; None where a value is missing, or all are."""
    found = list(values)
    known = [value for value in found if value is not None]
    return statistics.fmean(known) if known and len(known) == len(found) else None


def mean_cost(costs: Sequence[Cost]) -> Cost | None:
    if not costs:
        return None
    wall, processor = (statistics.fmean(getattr(cost, name) for cost in costs) for name in ("wall", "processor"))
    return Cost(wall=wall, processor=processor)


def exponential(nats: float | None) -> float | None:
    return None if nats is None or nats > 700 else math.exp(nats)


def by_table(rows: Sequence[Row]) -> Mapping[tuple[int, str], list[Row]]:
    """The rows of each table: by tokens and target."""
    found: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.tokens, row.target), []).append(row)
    return found
