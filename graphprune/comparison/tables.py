"""Tables: rows as texts, for the terminal, for Markdown and for the page alike."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from graphprune.amounts import show_bytes
from graphprune.comparison.methods import DENSE, GUESS
from graphprune.comparison.schema import Comparison, Cost, Measured, Row, Spread
from graphprune.comparison.summary import by_table, main_metric, mean_of, task_value

Look = Literal["", "best", "care", "bad", "soft"]
NOTHING = "-"


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
    notes = tuple(note_of(row, f"{row.method} at {row.target}") for row in own if row.note)
    title = f"Bits per byte of the held-out text, {trained(tokens)}"
    return Table(title, ("method", *(f"at {target}" for target in comparison.targets)), tuple(rows), notes)


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
    """Everything that was measured of each method at a target."""
    tasks, dense = comparison.text.tasks, comparison.dense
    whole = dense.parameters
    several = len(tasks) > 1
    columns = ["method", "parameters", "bits per byte", "perplexity", *tasks, *(["mean accuracy"] if several else [])]
    columns += ["cut, s", *(["training, s"] if tokens else []), "peak memory"]
    known = [dense_row(dense, tasks, several), guess_row(dense, tasks, several)]
    blank = [Entry(NOTHING, "soft")] * (len(columns) - len(known[0]) - 1)
    found = [(*known[0], *blank, Entry(show_bytes(dense.peak_made), "soft"))]
    found.append((*known[1], *blank, Entry(NOTHING, "soft")))
    found += [detail_row(row, whole, tasks, several) for row in rows]
    notes = tuple(note_of(row, row.method) for row in rows if row.note)
    return Table(f"At {target} of the parameters, {trained(tokens)}", tuple(columns), tuple(found), notes)


def dense_row(dense: Measured, tasks: Sequence[str], several: bool) -> tuple[Entry, ...]:
    values = [task_value(dense, task) for task in tasks]
    texts = [DENSE, f"{dense.parameters:,} (100 %)", f"{dense.bits_per_byte:.3f}", perplexity(dense.perplexity)]
    texts += accuracies(values, several)
    return tuple(Entry(text, "soft") for text in texts)


def guess_row(dense: Measured, tasks: Sequence[str], several: bool) -> tuple[Entry, ...]:
    """What a guess gets: every token as likely, every answer as likely."""
    found = [main_metric(dense.tasks, task) for task in tasks]
    values = [each.guess if each is not None else None for each in found]
    tokens = round(2.718281828459045**dense.guess_nats)
    texts = [GUESS, NOTHING, f"{dense.guess_bits:.3f}", f"{tokens:,}", *accuracies(values, several)]
    return tuple(Entry(text, "soft") for text in texts)


def accuracies(values: Sequence[float | None], several: bool) -> list[str]:
    shown = [NOTHING if value is None else f"{value:.3f}" for value in values]
    mean = mean_of(values)
    return [*shown, *([NOTHING if mean is None else f"{mean:.3f}"] if several else [])]


def detail_row(row: Row, whole: int, tasks: Sequence[str], several: bool) -> tuple[Entry, ...]:
    hidden = row.state == "above" or row.bits_per_byte is None
    size = (
        NOTHING if row.parameters is None else f"{row.parameters.mean:,.0f} ({100 * row.parameters.mean / whole:.2f} %)"
    )
    scores = [None if hidden else row.tasks.get(task) for task in tasks]
    entries = [
        Entry(row.method),
        Entry(size, "bad" if row.state == "above" else ""),
        bits_entry(row),
        Entry(NOTHING if hidden else perplexity(row.perplexity)),
        *map(Entry, accuracies(scores, several)),
        Entry(seconds(row.cut_seconds)),
    ]
    if row.tokens:
        entries.append(Entry(seconds(row.training_seconds)))
    return (*entries, Entry(NOTHING if row.peak is None else show_bytes(row.peak)))


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
        f"seed. Methods search, and recovery keeps its best weights, by {text.search}.",
        *([f"Tasks: {', '.join(text.tasks)}{items}."] if text.tasks else []),
        "Parameters are all that a model has, biases and untied heads among them; one above its target is refused, one "
        "more than 1 % below is marked †. A guess takes every token, and every answer, for equally likely.",
        "Values are means over seeds, ± their standard deviation. Seconds are by the clock, in brackets of all "
        "processors. Peak memory is the process's until the model is made; the dense row's is what reading takes.",
    )


def setup(comparison: Comparison) -> Mapping[str, str]:
    """What it was made with."""
    return {
        "command": comparison.command,
        "date": comparison.date,
        "machine": comparison.machine,
        **comparison.versions,
    }
