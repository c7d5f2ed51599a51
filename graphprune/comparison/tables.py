"""Tables: rows as texts, for the terminal, for Markdown and for the page alike."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from graphprune.amounts import show_bytes
from graphprune.comparison.methods import DENSE, GUESS
from graphprune.comparison.schema import Comparison, Cost, Row, Spread
from graphprune.comparison.summary import by_table, main_metric, mean_of

Look = Literal["", "best", "care", "bad", "soft"]
NOTHING = "-"
_TRAINING, _GPU, _MEAN = ("training, s",), ("peak on the GPU",), ("mean",)


@dataclass(frozen=True)
class Entry:
    """One text of a table, and how it stands there."""

    text: str
    look: Look = ""


@dataclass(frozen=True)
class Table:
    """A table: what its columns are called, its rows, and what must be known of some of them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = field(default_factory=tuple)


def all_tables(comparison: Comparison) -> Iterator[Table]:
    """For each number of tokens the bits per byte at every target; then everything of each target."""
    for tokens in comparison.train_tokens:
        yield overview(comparison, tokens)
    for (tokens, target), rows in by_table(comparison.rows).items():
        yield details(comparison, tokens, target, rows)
        if comparison.text.tasks:
            yield scores(comparison, tokens, target, rows)


def trained(tokens: int) -> str:
    return f"after recovery on {tokens:,} tokens" if tokens else "without recovery"


def overview(comparison: Comparison, tokens: int) -> Table:
    """Bits per byte of all methods at all targets."""
    dense, width = comparison.dense, len(comparison.targets)
    rows = [
        (Entry(DENSE, "soft"), *[Entry(f"{dense.bits_per_byte:.3f}", "soft")] * width),
        (Entry(GUESS, "soft"), *[Entry(f"{dense.guess_bits:.3f}", "soft")] * width),
    ]
    own = [row for row in comparison.rows if row.tokens == tokens]
    for method in dict.fromkeys(row.method for row in own):
        rows.append((Entry(method), *(bits_entry(row) for row in own if row.method == method)))
    title = f"Bits per byte of the held-out text, {trained(tokens)}"
    columns = ("method", *(f"at {target}" for target in comparison.targets))
    return Table(title, columns, tuple(rows), tuple(notes_of(own)))


def notes_of(rows: Sequence[Row]) -> Iterator[str]:
    """What is to be said of the rows of several targets: the same of several once."""
    said: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.note:
            said.setdefault((row.method, row.note), []).append(row)
    for (method, _), own in said.items():
        yield note_of(own[0], f"{method} at {', '.join(row.target for row in own)}")


def bits_entry(row: Row) -> Entry:
    """Bits per byte with the deviation over seeds; a row that is above its target is refused, and has none."""
    if row.state == "above":
        return Entry("refused", "bad")
    if row.bits_per_byte is None:
        return Entry("failed", "bad")
    shown = show_spread(row.bits_per_byte)
    if row.state == "failed":
        return Entry(f"{shown} ({row.seeds} seeds)", "care")
    return (
        Entry(f"{shown} †", "best" if row.best else "care")
        if row.state == "below"
        else Entry(shown, "best" if row.best else "")
    )


def show_spread(value: Spread) -> str:
    return f"{value.mean:.3f}" + ("" if value.deviation is None else f" ± {value.deviation:.3f}")


def note_of(row: Row, name: str) -> str:
    mark = "† " if row.state == "below" else ""
    return f"{mark}{name}: {row.note}"


def details(comparison: Comparison, tokens: int, target: str, rows: Sequence[Row]) -> Table:
    """Size, quality and cost of each method at a target."""
    dense = comparison.dense
    gpu = knows_gpu(comparison)
    costs = ("cut, s", *_TRAINING[: tokens > 0])
    columns = ("method", "parameters", "bits per byte", "perplexity", *costs, "peak memory", *_GPU[:gpu])
    guess = (GUESS, NOTHING, f"{dense.guess_bits:.3f}", f"{math.exp(dense.guess_nats):,.0f}")
    whole = (DENSE, f"{dense.parameters:,} (100 %)", f"{dense.bits_per_byte:.3f}", perplexity(dense.perplexity))
    none, peaks = [NOTHING] * len(costs), (dense.peak_made, dense.device_peak)[: 1 + gpu]
    known = ((*whole, *none, *map(memory, peaks)), (*guess, *none, *[NOTHING] * len(peaks)))
    found = [tuple(Entry(text, "soft") for text in texts) for texts in known]
    found += [detail_row(row, dense.parameters)[: len(columns)] for row in rows]
    notes = tuple(note_of(row, row.method) for row in rows if row.note)
    return Table(f"At {target} of the parameters, {trained(tokens)}", columns, tuple(found), notes)


def detail_row(row: Row, whole: int) -> tuple[Entry, ...]:
    size = row.parameters
    shown = NOTHING if size is None else f"{size.mean:,.0f} ({100 * size.mean / whole:.2f} %)"
    costs = (row.cut_seconds, *((row.training_seconds,) if row.tokens else ()))
    return (
        Entry(row.method),
        Entry(shown, "bad" if row.state == "above" else ""),
        bits_entry(row),
        Entry(perplexity(row.perplexity) if is_shown(row) else NOTHING),
        *(Entry(seconds(cost)) for cost in costs),
        *(Entry(memory(peak)) for peak in (row.peak, row.device_peak)),
    )


def knows_gpu(comparison: Comparison) -> bool:
    """Whether the memory of a GPU is known of any model."""
    peaks = (comparison.dense.device_peak, *(row.device_peak for row in comparison.rows))
    return any(peak is not None for peak in peaks)


def memory(peak: int | None) -> str:
    return NOTHING if peak is None else show_bytes(peak)


def is_shown(row: Row) -> bool:
    """Whether what a row was measured to be is said: not of one that has more parameters than the others may have."""
    return row.state != "above" and row.bits_per_byte is not None


def scores(comparison: Comparison, tokens: int, target: str, rows: Sequence[Row]) -> Table:
    """Accuracy on each task, and their mean where there are several; the best of each column is marked."""
    tasks, dense = comparison.text.tasks, comparison.dense
    metrics = [main_metric(dense.tasks, task) for task in tasks]
    known = {
        DENSE: with_mean([None if each is None else each.value for each in metrics]),
        GUESS: with_mean([None if each is None else each.guess for each in metrics]),
    }
    values = {row.method: with_mean([row.tasks.get(task) if is_shown(row) else None for task in tasks]) for row in rows}
    most = [max((v for v in column if v is not None), default=None) for column in zip(*values.values(), strict=True)]
    found = [tuple(Entry(text, "soft") for text in (name, *map(accuracy, own))) for name, own in known.items()]
    for name, own in values.items():
        pairs = zip(own, most, strict=True)
        found.append((Entry(name), *(Entry(accuracy(v), "best" if v is not None and v == m else "") for v, m in pairs)))
    names = [task.removesuffix("_local") for task in tasks]
    title = f"Accuracy at {target} of the parameters, {trained(tokens)}"
    return Table(title, ("method", *names, *_MEAN[: len(tasks) > 1]), tuple(found))


def accuracy(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def with_mean(values: Sequence[float | None]) -> list[float | None]:
    return [*values, mean_of(values)] if len(values) > 1 else list(values)


def perplexity(value: float | None) -> str:
    if value is None:
        return "infinite"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 10 else f"{value:.1f}"


def seconds(cost: Cost | None) -> str:
    """Seconds by the clock, and those of all processors."""
    return NOTHING if cost is None else f"{shorter(cost.wall)} ({shorter(cost.processor)})"


def shorter(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def protocol_words(comparison: Comparison) -> tuple[str, ...]:
    """How it was measured, in sentences."""
    text = comparison.text
    overlap = text.window - text.stride - (0 if text.stride == text.window else 1)
    part = (
        f"its first {text.text_tokens:,} tokens"
        if text.text_tokens
        else f"its first {text.text_bytes:,} bytes"
        if text.text_bytes
        else "all of it"
    )
    begins = "behind the tokenizer's first token" if text.bos else "without special tokens"
    shared = (
        "that share nothing"
        if not overlap and (text.bos or text.stride == text.window)
        else (f"of which {overlap} are seen before" if overlap else "each behind the token before")
    )
    items = f", {text.task_limit} items of each" if text.task_limit else ""
    return (
        f"Reported on {text.held_out}, {part}: {comparison.dense.predicted:,} tokens predicted in windows of "
        f"{text.window} {begins}, {shared}. No method sees this text.",
        f"Calibrated on {text.data}: {text.samples:,} windows of {text.length} tokens, the same for all methods at one "
        f"seed. What is chosen by other text, such as the best weights of a recovery, is chosen by {text.search}.",
        *([f"Tasks: {', '.join(text.tasks)}{items}."] if text.tasks else []),
        "Parameters are all that a model has, biases and untied heads among them; one above its target is refused, one "
        "more than 1 % below is marked †. A guess takes every token, and every answer, for equally likely.",
        "Values are means over seeds, ± their standard deviation. Seconds are by the clock, in brackets of all "
        "processors. Peak memory is the process's until the model is made; the dense row's is what reading takes."
        + " On the GPU it is that of tensors."
        * knows_gpu(comparison),
    )


def setup(comparison: Comparison) -> Mapping[str, str]:
    """What it was made with."""
    return {
        "command": comparison.command,
        "date": comparison.date,
        "machine": comparison.machine,
        **comparison.versions,
    }
