"""sweep.html and sweep.md: a sweep for people, from nothing but sweep.json."""

import functools
from collections.abc import Callable, Iterator
from importlib.resources import files

from markupsafe import Markup

from graphprune.amounts import show_bytes
from graphprune.comparison.page import markdown_table, short
from graphprune.comparison.plots import Level, Plot, Series, draw_plot, legend
from graphprune.comparison.tables import Entry, Table
from graphprune.reporting.charts import both
from graphprune.sweeping.advice import advise
from graphprune.sweeping.schema import Curve, Point

_SOURCE = "the source"


def curve_page(curve: Curve) -> str:
    """One file without scripts."""
    import jinja2

    folder = files("graphprune.reporting").joinpath("report_files")
    text, style = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("compare.html.j2", "style.css.j2"))
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(text)
    return template.render(
        style=Markup(style),  # a file of ours
        title=f"{curve.model} at {len(curve.points)} smaller sizes",
        subtitle=f"by graphprune {curve.versions['graphprune']}, {curve.date}",
        notes=advise(curve),
        protocol=protocol(curve),
        charts=list(charts(curve)),
        legend=legend([curve.method]),
        tables=[table(curve)],
        facts=facts(curve),
    )


def curve_markdown(curve: Curve) -> str:
    lines = [f"# {curve.model} at {len(curve.points)} smaller sizes", "", f"    {curve.command}", ""]
    lines += [f"{line}\n" for line in (*advise(curve), *protocol(curve))]
    found = table(curve)
    lines += markdown_table(found)
    lines += [f"{note}\n" for note in found.notes]
    return "\n".join(lines).rstrip("\n") + "\n"


def protocol(curve: Curve) -> tuple[str, ...]:
    return (
        f"Every model is the source cut by {curve.method}, without any training, on text of {curve.data}; the first "
        f"{curve.text_bytes:,} bytes of {curve.held_out}, which no cut saw, measure it: bits a byte, less is better.",
        "A size is a folder with a plan and its weights: graphprune apply points/SIZE/plan.json MODEL -o OUT makes it "
        "a checkpoint and an ONNX model, without any of the work.",
    )


def charts(curve: Curve) -> Iterator[dict[str, str]]:
    """Quality against parameters, bytes, and cache where there is one."""
    sizes: tuple[tuple[str, str, Callable[[Point], float], Callable[[float], str]], ...] = (
        ("parameters", "parameters", lambda point: point.parameters, short),
        ("bytes of weights", "bytes", lambda point: point.weight_bytes, show_bytes),
        ("bytes of cache a token", "bytes", lambda point: point.cache_bytes, show_bytes),
    )
    for words, across, size, show in sizes:
        points = sorted((*curve.points, curve.dense), key=size)
        if len({size(point) for point in points}) < 2:
            continue
        title = f"Bits per byte against {words}"
        drawn = tuple((float(size(point)), point.quality.bits_per_byte) for point in points if point is not curve.dense)
        ticks = tuple((float(size(point)), f"{point.target} ({show(size(point))})") for point in points)
        level = Level(_SOURCE, curve.dense.quality.bits_per_byte)
        plot = Plot(title, across, (Series(curve.method, 0, drawn),), (level,), ticks)
        yield {"title": title, "svg": both(functools.partial(draw_plot, plot)), "note": ""}


def table(curve: Curve) -> Table:
    columns = ("size", "parameters", "weights", "cache a token", "bits a byte", "more", "perplexity", "seconds")
    best = (row(curve, curve.dense, _SOURCE), *(row(curve, point, point.target) for point in curve.points))
    notes = tuple(dict.fromkeys(f"{p.target}: {note}" for p in curve.points for note in p.notes))
    return Table("Sizes", columns, best, notes)


def row(curve: Curve, point: Point, name: str) -> tuple[Entry, ...]:
    quality, look = point.quality, "soft" if point is curve.dense else ""
    more = quality.bits_per_byte / curve.dense.quality.bits_per_byte - 1
    texts = (
        name,
        f"{point.parameters:,}",
        show_bytes(point.weight_bytes),
        show_bytes(point.cache_bytes) if point.cache_bytes else "-",
        f"{quality.bits_per_byte:.3f}",
        "-" if point is curve.dense else f"{more:+.1%}",
        f"{quality.perplexity:,.1f}" if quality.perplexity is not None else "-",
        "-" if point is curve.dense else f"{point.seconds:,.0f}",
    )
    return tuple(Entry(text, "soft" if look else "") for text in texts)


def facts(curve: Curve) -> dict[str, str]:
    versions = ", ".join(f"{name} {value}" for name, value in curve.versions.items())
    return {"command": curve.command, "recipe": curve.recipe, "versions": versions}
