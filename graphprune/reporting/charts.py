"""Charts as SVG for a page: bars, a heat map, curves. Colours are the page's; texts are escaped."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from markupsafe import Markup, escape

from graphprune.training.metrics import Line

_ROW, _LETTER = 18, 6.2  # a line, and the width of a letter


@dataclass(frozen=True)
class Frame:
    """How wide a chart is, what of it is for names, and how many letters these may have.

    A page draws every chart in both frames and shows the one that its window has room for: text that is scaled down
    with a chart cannot be read.
    """

    name: str
    width: int
    names: int
    letters: int


WIDE, NARROW = Frame("wide", 900, 260, 40), Frame("narrow", 340, 116, 17)


def both(draw: Callable[[Frame], Markup | str]) -> Markup:
    """A chart in both frames."""
    return Markup("").join([draw(WIDE), draw(NARROW)])


def svg(frame: Frame, height: float, parts: Sequence[str], label: str) -> Markup:
    box = f'viewBox="0 0 {frame.width} {height:.0f}"'
    head = f'<svg class="{frame.name}" {box} role="img" aria-label="{escape(label)}">'
    return Markup(f"{head}{''.join(parts)}</svg>")  # every text in it was escaped


def text(x: float, y: float, value: object, anchor: str = "start", most: int = 40) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(shorten(str(value), most))}</text>'


def shorten(name: str, most: int = 40) -> str:
    """The end of a long name, which tells it from its neighbours."""
    return name if len(name) <= most else f"...{name[-most + 3 :]}"


def box(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" {more}/>'


def draw_bars(rows: Sequence[tuple[str, int, int]], frame: Frame = WIDE) -> Markup:
    """One bar for each (name, before, after): what was there pale, what is left over it."""
    largest = max(before for _, before, _ in rows)
    names = frame.names
    numbers = 12 + _LETTER * max(len(f"{after:,} of {before:,}") for _, before, after in rows)
    scale = (frame.width - names - numbers) / largest
    parts = []
    for index, (name, before, after) in enumerate(rows):
        y = index * _ROW
        parts += [
            text(names - 10, y + 13, name, "end", frame.letters),
            box(names, y + 3, before * scale, _ROW - 6, "var(--pale)"),
            box(names, y + 3, after * scale, _ROW - 6, "var(--main)"),
            text(names + before * scale + 8, y + 13, f"{after:,} of {before:,}"),
        ]
    return svg(frame, len(rows) * _ROW, parts, "widths before and after")


def draw_heat(rows: Sequence[tuple[str, str, Sequence[float]]], frame: Frame = WIDE) -> Markup | str:
    """One line of cells for each (kind, name, scores), by rank within the kind; empty where there is nothing."""
    if not rows:
        return ""
    ranks = {kind: sorted(s for k, _, scores in rows if k == kind for s in scores) for kind, _, _ in rows}
    parts = []
    for index, (kind, name, scores) in enumerate(rows):
        y, cell = index * _ROW, (frame.width - frame.names) / len(scores)
        parts.append(text(frame.names - 10, y + 13, name, "end", frame.letters))
        for place, score in enumerate(scores):
            share = position(ranks[kind], score)
            shade = f'fill-opacity="{0.06 + 0.94 * share:.2f}"'
            parts.append(box(frame.names + place * cell, y + 1, cell + 0.3, _ROW - 2, "var(--main)", shade))
    return svg(frame, len(rows) * _ROW, parts, "importance of units")


def position(ordered: Sequence[float], value: float) -> float:
    """The share of the values that are below this one, from 0 to 1."""
    import bisect

    return bisect.bisect_left(ordered, value) / max(1, len(ordered) - 1)


def draw_curves(lines: Sequence[Line], frame: Frame = WIDE) -> Markup | str:
    """Loss over steps, and held-out loss where it was looked at; empty without training."""
    every = [(line["step"], line["loss"]) for line in lines if is_number(line["loss"])]
    held = [(line["step"], line["held_out"]) for line in lines if is_number(line["held_out"])]
    if len(every) < 2:
        return ""
    height, left, bottom = 260, 46, 24
    low, high = (pick(y for _, y in (*every, *held)) for pick in (min, max))
    last, span = max(every[-1][0], 1), (high - low) or 1.0

    def place(step: float, loss: float) -> str:
        x = left + (frame.width - left - 10) * step / last
        return f"{x:.1f},{10 + (height - bottom - 20) * (high - loss) / span:.1f}"

    parts = [curve([place(*p) for p in every], "var(--pale)", 1.5), curve([place(*p) for p in held], "var(--main)", 2)]
    for loss in (low, (low + high) / 2, high):
        y = float(place(0, loss).split(",")[1])
        parts += [
            text(left - 8, y + 4, f"{loss:.2f}", "end"),
            box(left, y, frame.width - left - 10, 0.5, "var(--line)"),
        ]
    parts += [text(left, height - 6, "step 0"), text(frame.width - 10, height - 6, f"step {last:,}", "end")]
    starts = {line["stage"]: line["step"] for line in reversed(lines)}
    for number, (_, step) in enumerate(sorted(starts.items())[1:], 2):
        x = float(place(step, low).split(",")[0])
        side, anchor = (-4, "end") if x > frame.width - 50 else (4, "start")  # the last has its name on its left
        parts += [box(x, 10, 0.6, height - bottom - 20, "var(--soft)"), text(x + side, 20, f"cut {number}", anchor)]
    return svg(frame, height, parts, "loss while training")


def curve(points: Sequence[str], colour: str, width: float) -> str:
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)
