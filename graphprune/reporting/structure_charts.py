"""Charts of a structure: a layer with its branches beside the stream, parameters by layer, levels."""

from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

from graphprune.reporting.charts import Frame, box, svg, text
from graphprune.reporting.structure import Bar, Branch, Layer

_ROW, _LETTER = 18, 6.2
_STREAM, _BOX, _EDGE = 14, 38, 6  # where the stream runs, where a branch begins, and the room around what is in it
_LABEL = 76  # for the names of kinds


def draw_layer(layer: Layer, frame: Frame) -> Markup:
    """The stream, running down, and each branch: what it takes from the stream, its groups, and where it is added."""
    parts, y = list[str](), 6.0
    for _, members in groupby(layer.branches, key=lambda branch: branch.addition):
        top = y
        for branch in members:
            parts += [line(_STREAM, top, _BOX, y + 12), *draw_branch(branch, y, frame)]
            y += height_of(branch) + 8
        plus = y
        parts += [line(_BOX + 12, y - 8, _STREAM, plus), *add_sign(plus)]
        y += 16
    stream = box(_STREAM - 1, 0, 2, y, "var(--soft)")
    return svg(frame, y, [stream, *parts], f"layer {layer.number}")


def height_of(branch: Branch) -> float:
    return 26 + _ROW * len(branch.bars)


def draw_branch(branch: Branch, y: float, frame: Frame) -> list[str]:
    """A box with the branch's name, its parameters, and a bar for each of its groups."""
    right = frame.width - 2
    said = f"{branch.parameters:,}" + (" parameters" if frame.width > 500 else "")
    said = "dropped whole" if branch.dropped else said
    room = int((right - _BOX - _LETTER * len(said) - 24) / _LETTER)
    outline = 'rx="6" stroke="var(--line)" stroke-width="1"'
    parts = [
        box(_BOX, y, right - _BOX, height_of(branch), "var(--back)", outline),
        box(_BOX, y, 3, height_of(branch), f"var(--c{branch.family})"),
        text(_BOX + 10, y + 15, branch.id, most=max(room, 8)),
        text(right - 8, y + 15, said, "end"),
    ]
    for row, bar in enumerate(branch.bars):
        parts += draw_bar(bar, y + 22 + row * _ROW, branch.family, frame)
    return parts


def draw_bar(bar: Bar, y: float, family: int, frame: Frame) -> list[str]:
    """A group: pale its units, dark what is left of them; an outline alone where it may not shrink."""
    words = f"{bar.units:,} locked" if bar.locked else words_of(bar.units, bar.left)
    start, room = _BOX + 10 + _LABEL, frame.width - _BOX - _LABEL - 30 - _LETTER * 17
    width = max(2.0, room * bar.units / bar.most)
    parts = [text(_BOX + 10, y + 12, bar.kind, most=12)]
    if bar.locked:
        parts.append(box(start, y + 3, width, _ROW - 8, "none", 'stroke="var(--soft)" stroke-dasharray="3 2"'))
    else:
        parts += [
            box(start, y + 2, width, _ROW - 6, f"var(--c{family})", 'fill-opacity="0.28"'),
            box(start, y + 2, width * bar.left / bar.units, _ROW - 6, f"var(--c{family})"),
        ]
    return [*parts, text(start + width + 6, y + 12, words)]


def words_of(units: int, left: int) -> str:
    return f"{units:,}" if left == units else f"{left:,} of {units:,}"


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f} L{x2:.1f} {y2:.1f}" stroke="var(--soft)" fill="none"/>'


def add_sign(y: float) -> list[str]:
    circle = f'<circle cx="{_STREAM}" cy="{y:.1f}" r="7" fill="var(--paper)" stroke="var(--soft)"/>'
    return [circle, line(_STREAM - 4, y, _STREAM + 4, y), line(_STREAM, y - 4, _STREAM, y + 4)]


def draw_stacks(rows: Sequence[tuple[str, Sequence[tuple[int, int]]]], frame: Frame) -> Markup:
    """One bar for each (name, [(number, family)]): how much there is, in parts."""
    most = max(sum(number for number, _ in parts) for _, parts in rows) or 1
    names = min(frame.names, 110)
    scale = (frame.width - names - 12 - _LETTER * len(f"{most:,}")) / most
    drawn = list[str]()
    for index, (name, parts) in enumerate(rows):
        x, y = float(names), index * _ROW
        drawn.append(text(names - 10, y + 13, name, "end", 15))
        for number, family in parts:
            drawn.append(box(x, y + 3, number * scale, _ROW - 6, f"var(--c{family})"))
            x += number * scale
        drawn.append(text(x + 8, y + 13, f"{sum(number for number, _ in parts):,}"))
    return svg(frame, len(rows) * _ROW, drawn, "parameters of every layer")


def draw_levels(rows: Sequence[tuple[str, float]], frame: Frame) -> Markup:
    """One bar for each (name, share from 0 to 1)."""
    room = frame.width - frame.names - 50
    drawn = list[str]()
    for index, (name, share) in enumerate(rows):
        y = index * _ROW
        drawn += [
            text(frame.names - 10, y + 13, name, "end", frame.letters),
            box(frame.names, y + 3, room, _ROW - 6, "var(--pale)", 'fill-opacity="0.4"'),
            box(frame.names, y + 3, room * share, _ROW - 6, "var(--main)"),
            text(frame.names + room + 8, y + 13, f"{share:.0%}"),
        ]
    return svg(frame, len(rows) * _ROW, drawn, "what a unit is worth")
