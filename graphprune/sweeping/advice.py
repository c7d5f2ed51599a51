"""Advice: in words, which of the sizes to take."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from graphprune.reporting.verdict import KEPT
from graphprune.sweeping.schema import Curve, Point

_MUCH = 0.15  # more bits than the source takes


def advise(curve: Curve) -> tuple[str, ...]:
    """Sentences: how far the quality is kept, how far one may go, and where it falls fastest."""
    points = sorted(curve.points, key=lambda point: -point.parameters)
    return tuple(sentences(curve.dense, points)) if points else ()


def sentences(dense: Point, points: Sequence[Point]) -> Iterator[str]:
    kept = smallest(dense, points, KEPT)
    if kept is None:
        yield (
            f"No size here keeps the quality of the model: even {name(points[0])} takes {more(dense, points[0])} more "
            "bits a byte. Train what you take, or ask for less to be cut."
        )
    else:
        yield (
            f"{name(kept)} is the smallest that keeps the quality: {more(dense, kept)} more bits a byte than the source"
            f" takes, for {1 - kept.parameters / dense.parameters:.0%} fewer parameters."
        )
    far = smallest(dense, points, _MUCH)
    if far is not None and far is not kept:
        said = "worth it where size counts, and better after training"
        yield f"{name(far)} takes {more(dense, far)} more bits a byte: {said}."
    steps = [(loss(one, other), one, other) for one, other in pairwise((dense, *points)) if differ(one, other)]
    if len(steps) > 1:
        worst, one, other = max(steps, key=lambda step: step[0])
        start = "the source" if one is dense else name(one)
        where = f"between {start} and {name(other)}"
        yield f"It gets worse fastest {where}: {worst:.3f} bits a byte for a tenth of the size."


def smallest(dense: Point, points: Sequence[Point], most: float) -> Point | None:
    """The smallest of the sizes from the largest on that take no more than this share of bits more."""
    found = None
    for point in points:
        if point.quality.bits_per_byte > dense.quality.bits_per_byte * (1 + most):
            break
        found = point
    return found


def differ(one: Point, other: Point) -> bool:
    return one.parameters > other.parameters


def loss(one: Point, other: Point) -> float:
    """Bits a byte for ten percent of the larger one's parameters."""
    share = 10 * (1 - other.parameters / one.parameters)
    return (other.quality.bits_per_byte - one.quality.bits_per_byte) / share


def more(dense: Point, point: Point) -> str:
    return f"{point.quality.bits_per_byte / dense.quality.bits_per_byte - 1:.1%}"


def name(point: Point) -> str:
    return f"{point.target} ({point.parameters:,} parameters)"
