"""compare.html and compare.md: a comparison for people, from nothing but compare.json."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files

from markupsafe import Markup

from graphprune.amounts import show_amount
from graphprune.comparison.methods import DENSE, GUESS
from graphprune.comparison.plots import Level, Plot, Series, draw_plot, legend, powers
from graphprune.comparison.schema import Comparison, Row
from graphprune.comparison.summary import mean_of, task_value
from graphprune.comparison.tables import Entry, Table, all_tables, protocol_words, setup, trained
from graphprune.reporting.charts import both

Value = Callable[[Row], float | None]
_FAR = 1.5  # times the range of the points


def compare_page(comparison: Comparison) -> str:
    """One file without scripts."""
    import jinja2

    folder = files("graphprune.reporting").joinpath("report_files")
    text, style = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("compare.html.j2", "style.css.j2"))
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(text)
    return template.render(
        style=Markup(style),  # a file of ours
        title=f"{len(comparison.methods)} ways to make {comparison.model} smaller",
        subtitle=f"by graphprune {comparison.versions['graphprune']}, {comparison.date}",
        notes=comparison.notes,
        protocol=protocol_words(comparison),
        charts=list(charts(comparison)),
        legend=legend([method.name for method in comparison.methods]),
        tables=list(all_tables(comparison)),
        facts=setup(comparison),
    )


def charts(comparison: Comparison) -> Iterator[dict[str, str]]:
    """Quality and accuracy against parameters, and quality against seconds, for each number of tokens."""
    for tokens in comparison.train_tokens:
        rows = [row for row in comparison.rows if row.tokens == tokens and row.state in ("ok", "below")]
        plots = (
            ("Bits per byte against parameters", against_size(comparison, rows, bits)),
            ("Mean accuracy against parameters", against_size(comparison, rows, accuracy)),
            ("Bits per byte against seconds", against_seconds(comparison, rows)),
        )
        for title, plot in plots:
            if plot is not None:
                drawn, note = without_far_guess(plot)
                svg = both(functools.partial(draw_plot, drawn))
                yield {"title": f"{title}, {trained(tokens)}", "svg": svg, "note": note}


def without_far_guess(plot: Plot) -> tuple[Plot, str]:
    """The plot without the line of a guess where all points lie far below it, and what is then said of it.

    With the line the points would lie one over the other.
    """
    guess = next((level for level in plot.levels if level.name == GUESS), None)
    others = tuple(level for level in plot.levels if level is not guess)
    known = [*(y for each in plot.series for _, y in each.points), *(level.y for level in others)]
    if guess is None or guess.y < max(known) + _FAR * (max(known) - min(known)):
        return plot, ""
    return replace(plot, levels=others), f"A {guess.name}, {guess.y:.2f}, lies above what is shown."


def bits(row: Row) -> float | None:
    return row.bits_per_byte.mean if row.bits_per_byte is not None else None


def accuracy(row: Row) -> float | None:
    return row.accuracy


def taken(row: Row) -> float:
    """Seconds by the clock until the model is made."""
    costs = (row.cut_seconds, row.training_seconds)
    return sum(cost.wall for cost in costs if cost is not None)


def levels_of(comparison: Comparison, value: Value) -> tuple[Level, ...]:
    """The dense model and a guess, where they are known."""
    dense, tasks = comparison.dense, comparison.text.tasks
    if value is bits:
        return Level(DENSE, dense.bits_per_byte), Level(GUESS, dense.guess_bits)
    guesses = [next((t.guess for t in dense.tasks if t.task == task and t.guess is not None), None) for task in tasks]
    known = ((DENSE, mean_of(task_value(dense, task) for task in tasks)), (GUESS, mean_of(guesses)))
    return tuple(Level(name, y) for name, y in known if y is not None)


def against_size(comparison: Comparison, rows: list[Row], value: Value) -> Plot | None:
    """One line a method, through its targets."""
    levels = levels_of(comparison, value)
    series = make_series(comparison, rows, lambda row: row.parameters.mean if row.parameters else None, value)
    if not series or not levels:
        return None
    whole = comparison.dense.parameters
    sizes = {
        target: next((r.parameters.mean for r in rows if r.target == target and r.parameters), None)
        for target in comparison.targets
    }
    ticks = tuple((x, f"{target} ({short(x)})") for target, x in sizes.items() if x is not None)
    name = "bits per byte" if value is bits else "mean accuracy"
    return Plot(f"{name} against parameters", "parameters", series, levels, (*ticks, (whole, f"all ({short(whole)})")))


def short(count: float) -> str:
    """135M, 3.15M, 260k."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g}{unit}"
    return show_amount(count)


def against_seconds(comparison: Comparison, rows: list[Row]) -> Plot | None:
    """One point for each method and target, on a logarithmic scale."""
    series = make_series(comparison, rows, taken, bits)
    values = [x for each in series for x, _ in each.points]
    if not values:
        return None
    label = "bits per byte against seconds"
    return Plot(
        label, "seconds of cutting and training", series, levels_of(comparison, bits), powers(values), True, False
    )


def make_series(
    comparison: Comparison, rows: list[Row], across: Callable[[Row], float | None], value: Value
) -> tuple[Series, ...]:
    found = []
    for index, method in enumerate(comparison.methods):
        pairs = [(across(row), value(row)) for row in rows if row.method == method.name]
        points = sorted((x, y) for x, y in pairs if x is not None and y is not None)
        if points:
            found.append(Series(method.name, index, tuple(points)))
    return tuple(found)


def compare_markdown(comparison: Comparison) -> str:
    """The tables for a page of docs, with what they were made by."""
    lines = [f"# Methods compared on {comparison.model}", "", f"    {comparison.command}", ""]
    words = [f"{name} {value}" for name, value in setup(comparison).items() if name != "command"]
    lines += [f"{'; '.join(words)}.", "", *(f"{line}\n" for line in protocol_words(comparison))]
    lines += [f"Note: {note}\n" for note in comparison.notes]
    for table in all_tables(comparison):
        lines += [f"## {table.title}", "", *markdown_table(table), *(f"{note}\n" for note in table.notes)]
    return "\n".join(lines).rstrip("\n") + "\n"


def markdown_table(table: Table) -> list[str]:
    head = "| " + " | ".join(map(escaped, table.columns)) + " |"
    rule = "|" + "---|" + "---:|" * (len(table.columns) - 1)
    rows = ["| " + " | ".join(map(marked, row)) + " |" for row in table.rows]
    return [head, rule, *rows, ""]


def marked(entry: Entry) -> str:
    text = escaped(entry.text)
    return f"**{text}**" if entry.look == "best" else f"*{text}*" if entry.look == "bad" else text


def escaped(text: str) -> str:
    """A text as a cell of a Markdown table."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").split())
