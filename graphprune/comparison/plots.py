"""Plots: quality against size and against seconds, as SVG in the way of the report's charts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from graphprune.reporting.charts import Frame, box, svg, text

COLOURS = 8  # --c0 to --c7 of the page; then they come again with another shape
_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 300, 46, 14, 10, 40
_SHAPES = ("circle", "square", "diamond")


@dataclass(frozen=True)
class Series:
    """A method's points (x, y), joined by a line where that means something."""

    name: str
    index: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Level:
    """A line through the whole plot: the dense model, a guess."""

    name: str
    y: float


@dataclass(frozen=True)
class Plot:
    """What is drawn. `ticks` of x are given with their words; `logarithmic` is of x."""

    label: str
    across: str
    series: tuple[Series, ...]
    levels: tuple[Level, ...]
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False
    joined: bool = True


def draw_plot(plot: Plot, frame: Frame) -> Markup:
    """The plot in one frame; colours are the page's."""
    place = scales(plot, frame)
    parts = [*grid(plot, frame, place)]
    for series in plot.series:
        colour = f"var(--c{series.index % COLOURS})"
        points = [place(*point) for point in series.points]
        if plot.joined and len(points) > 1:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        for (x, y), (_, value) in zip(points, series.points, strict=True):
            parts.append(mark(x, y, series.index, f"{series.name}: {value:.3f}"))
    return svg(frame, _HEIGHT, parts, plot.label)


def scales(plot: Plot, frame: Frame) -> Callable[[float, float], tuple[float, float]]:
    """From values to places in the frame."""
    across = transform(plot)
    xs = [across(x) for x in (*(x for x, _ in plot.ticks), *(x for s in plot.series for x, _ in s.points))]
    ys = [*(y for s in plot.series for _, y in s.points), *(level.y for level in plot.levels)]
    (x0, x1), (y0, y1) = widened(min(xs), max(xs), 0.04), widened(min(ys), max(ys), 0.06)
    width, height = frame.width - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + width * (across(x) - x0) / (x1 - x0), _TOP + height * (y1 - y) / (y1 - y0)

    return place


def transform(plot: Plot) -> Callable[[float], float]:
    return (lambda x: math.log10(max(x, 1e-3))) if plot.logarithmic else (lambda x: x)


def widened(low: float, high: float, share: float) -> tuple[float, float]:
    room = (high - low) * share or abs(high) * share or 1.0
    return low - room, high + room


def grid(plot: Plot, frame: Frame, place: Callable[[float, float], tuple[float, float]]) -> list[str]:
    """Lines and words at the ticks, and the levels."""
    ys = [*(y for s in plot.series for _, y in s.points), *(level.y for level in plot.levels)]
    parts = []
    for value in ticks_of(min(ys), max(ys)):
        y = place(plot.ticks[0][0], value)[1]
        parts += [
            box(_LEFT, y, frame.width - _LEFT - _RIGHT, 0.5, "var(--line)"),
            text(_LEFT - 6, y + 4, f"{value:g}", "end"),
        ]
    for x, words in kept_apart(plot, frame, place):
        parts.append(text(x, _HEIGHT - _BOTTOM + 16, words, "middle"))
    parts.append(text(_LEFT + (frame.width - _LEFT - _RIGHT) / 2, _HEIGHT - 6, plot.across, "middle", 60))
    for level in plot.levels:
        y = place(plot.ticks[0][0], level.y)[1]
        parts.append(
            f'<line x1="{_LEFT}" x2="{frame.width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--soft)" '
            'stroke-dasharray="4 3" stroke-width="1"/>'
        )
        below = y + 14 if y < _TOP + 16 else y - 4
        parts.append(text(frame.width - _RIGHT, below, level.name, "end"))
    return parts


def kept_apart(
    plot: Plot, frame: Frame, place: Callable[[float, float], tuple[float, float]], letter: float = 6.2
) -> list[tuple[float, str]]:
    """The words of the ticks where they have room, from the right, and within the frame."""
    found: list[tuple[float, str]] = []
    free = float(frame.width)
    for x, words in sorted(plot.ticks, reverse=True):
        half = len(words) * letter / 2
        at = min(max(place(x, plot.levels[0].y if plot.levels else 0.0)[0], half), frame.width - half - 2)
        if at + half <= free:
            found.append((at, words))
            free = at - half - 6
    return found


def ticks_of(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two values."""
    span = (high - low) or 1.0
    step = 10.0 ** math.floor(math.log10(span / most))
    step = next(step * m for m in (1, 2, 5, 10, 20) if span / (step * m) <= most)
    first = math.ceil(low / step)
    return [round(n * step, 10) for n in range(first, math.floor(high / step) + 1)]


def powers(values: Sequence[float]) -> tuple[tuple[float, str], ...]:
    """Ticks of a logarithmic scale: 1, 10, 100 and what lies between where there is little."""
    known = [max(value, 1e-3) for value in values]
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    fine = (1, 2, 5) if max(known) / min(known) <= 100 else (1,)
    every = [m * 10.0**n for n in range(low, high + 1) for m in fine]
    inside = [x for x in every if min(known) / 1.5 <= x <= max(known) * 1.5] or [10.0**low, 10.0**high]
    return tuple((x, f"{x:,g}") for x in inside)


def mark(x: float, y: float, index: int, words: str) -> str:
    """The mark of a method: its colour, and a shape that changes where colours come again."""
    colour, shape = f"var(--c{index % COLOURS})", _SHAPES[index // COLOURS % len(_SHAPES)]
    said = f"<title>{escape(words)}</title>"
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">{said}</circle>'
    turned = f' transform="rotate(45 {x:.1f} {y:.1f})"' if shape == "diamond" else ""
    return f'<rect x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2" fill="{colour}"{turned}>{said}</rect>'


def legend(names: Sequence[str]) -> Markup:
    """What the marks stand for, in lines that break where a window is narrow."""
    items = (
        f'<span class="key"><svg class="mark" viewBox="0 0 12 12">{mark(6, 6, index, name)}</svg>{escape(name)}</span>'
        for index, name in enumerate(names)
    )
    return Markup(f'<p class="keys">{"".join(items)}</p>')  # every name in it was escaped
