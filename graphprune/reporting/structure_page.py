"""The page of a structure: `inspect --html`, one file without scripts that fetches nothing."""

import functools
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files

from markupsafe import Markup

from graphprune.amounts import show_amount
from graphprune.reporting.charts import both, draw_heat
from graphprune.reporting.structure import FAMILIES, Bar, Layer, Structure, sensitivities
from graphprune.reporting.structure_charts import draw_layer, draw_levels, draw_stacks, words_of

_UNITS = {"weight_bytes": "bytes", "cache_bytes_per_token": "bytes"}


def structure_page(structure: Structure) -> str:
    import jinja2

    folder = files("graphprune.reporting").joinpath("report_files")
    text, style = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("inspect.html.j2", "style.css.j2"))
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(text)
    return template.render(
        style=Markup(style),  # a file of ours
        title=structure.model,
        subtitle=structure.architecture or "a module",
        tiles=[(name.replace("_", " "), show_amount(v, _UNITS.get(name, ""))) for name, v in structure.costs.items()],
        kinds=list(kinds(structure)),
        families=list(enumerate(FAMILIES)),
        parameters=both(functools.partial(draw_stacks, list(stacks(structure)))) if structure.layers else "",
        layers=[layer_of(layer) for layer in structure.layers],
        across=[bar_row(bar) for bar in structure.across],
        levels=[(kind, both(functools.partial(draw_levels, rows))) for kind, rows in sensitivities(structure)],
        heat=both(functools.partial(draw_heat, heat(structure))),
        locks=list(locks(structure)),
        cut=structure.cut,
    )


def kinds(structure: Structure) -> Iterator[tuple[str, ...]]:
    """A row for each kind: groups, units, parameters that carry it, and how many are locked."""
    bars = [bar for _, bar in structure.bars()]
    for kind in dict.fromkeys(bar.kind for bar in bars):
        own = [bar for bar in bars if bar.kind == kind]
        least, most = min(bar.units for bar in own), max(bar.units for bar in own)
        span = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        locked = sum(bar.locked is not None for bar in own)
        held = sum(bar.units * bar.price for bar in own)
        yield kind, f"{len(own):,}", span, f"{held:,}", f"{locked:,}" if locked else ""


def stacks(structure: Structure) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """The parameters of every layer by branch, and of what lies outside."""
    for layer in structure.layers:
        yield f"layer {layer.number}", [(branch.parameters, branch.family) for branch in layer.branches]
    if structure.outside > 0:
        yield "outside", [(structure.outside, len(FAMILIES) - 1)]


def layer_of(layer: Layer) -> dict[str, object]:
    bars = [bar for branch in layer.branches for bar in branch.bars]
    said = ", ".join(f"{bar.kind} {words_of(bar.units, bar.left)}" for bar in bars) or "no group of its own"
    return {
        "number": layer.number,
        "words": f"{layer.parameters:,} parameters; {said}",
        "open": not layer.alike,
        "alike": layer.alike,
        "svg": both(functools.partial(draw_layer, layer)),
        "bars": [bar_row(bar) for bar in bars],
    }


def bar_row(bar: Bar) -> dict[str, object]:
    return {
        "id": bar.id,
        "kind": bar.kind,
        "units": words_of(bar.units, bar.left),
        "price": f"{bar.price:,}",
        "locked": bar.locked or "",
        "slots": bar.slots,
    }


def heat(structure: Structure) -> list[tuple[str, str, tuple[float, ...]]]:
    return [(bar.kind, name, bar.scores) for name, bar in structure.bars() if bar.scores]


def locks(structure: Structure) -> Iterator[dict[str, object]]:
    """One row for each reason, with every group that it holds."""
    locked = [bar for _, bar in structure.bars() if bar.locked is not None]
    for (kind, reason), count in Counter((bar.kind, bar.locked) for bar in locked).items():
        names = [bar.id for bar in locked if (bar.kind, bar.locked) == (kind, reason)]
        yield {"kind": kind, "reason": reason, "count": f"{count:,}", "names": names}
