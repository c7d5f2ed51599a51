"""The mixture: rows of several domains in the proportion of their weights, which may change from a row on.

Which domain a row is of is decided by counts alone: at every row each domain has had within one row of its share since
its weights last changed. Nothing is drawn, so any row can be asked for by its number.
Source: Tijdeman, "The chairman assignment problem", Discrete Mathematics 32 (1980).
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphprune.data.stream.packing import Stream
from graphprune.errors import UsageError

_BLOCK = 4096  # rows that are decided at a time, and kept
Weights = tuple[float, ...]


class Segment(NamedTuple):
    """From this row on these weights hold, which sum to 1."""

    start: int
    weights: Weights


@final
@dataclass(frozen=True, eq=False)
class Mixture:
    """Rows of several streams, numbered from 0 without an end; each domain's own rows come one after another.

    `segments` begin at row 0 and ascend.
    """

    names: tuple[str, ...]
    streams: tuple[Stream, ...]
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        for segment in self.segments:
            check_weights(segment.weights, self.names)

    @property
    def length(self) -> int:
        return self.streams[0].length

    @property
    def tokens_per_epoch(self) -> int:
        """The tokens of all domains, each once."""
        return sum(stream.tokens_per_epoch for stream in self.streams)

    @property
    def fingerprint(self) -> str:
        """A hash of every domain and of the weights that the mixture begins with."""
        parts = [self.names, self.segments[0].weights, [stream.fingerprint for stream in self.streams]]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Token ids and labels of the rows from number `start` on: int64 [count, length] each."""
        ids = torch.empty(count, self.length, dtype=torch.long)
        labels = torch.empty_like(ids)
        for place in range(count):
            domain, number = self.place(start + place)
            row, learned = self.streams[domain].rows(number, 1)
            ids[place], labels[place] = row[0], learned[0]
        return ids, labels

    def place(self, row: int) -> tuple[int, int]:
        """The domain of a row, and which of the domain's rows it is."""
        domain = self.domain(row)
        return domain, self.counts(row)[domain]

    def domain(self, row: int) -> int:
        """Which domain a row is of."""
        segment = next(each for each in reversed(self.segments) if each.start <= row)
        block, place = divmod(row - segment.start, _BLOCK)
        return int(decided(segment.weights, block).domains[place])

    def counts(self, rows: int) -> tuple[int, ...]:
        """How many of the first rows are of each domain."""
        total = numpy.zeros(len(self.names), dtype=numpy.int64)
        ends = [*(segment.start for segment in self.segments[1:]), rows]
        for segment, end in zip(self.segments, ends, strict=True):
            if min(end, rows) > segment.start:
                total += counted(segment.weights, min(end, rows) - segment.start)
        return tuple(map(int, total))

    def reweighed(self, row: int, weights: Sequence[float]) -> "Mixture":
        """The same rows up to one, and others in the proportion of these weights from it on."""
        before = tuple(segment for segment in self.segments if segment.start < row)
        return replace(self, segments=(*before, Segment(row, tuple(map(float, weights)))))


def check_weights(weights: Weights, names: Sequence[str]) -> None:
    """Raise UsageError for weights that are none."""
    right = len(weights) == len(names) and all(weight > 0 for weight in weights)
    if not right or not math.isclose(sum(weights), 1, rel_tol=1e-9):
        raise UsageError(f"{len(names)} domains have as many weights above 0, with a sum of 1, not {weights}")


class Decided(NamedTuple):
    """The domains of a block of rows, and how many of each there are up to its end."""

    domains: NDArray[numpy.int16]
    counts: NDArray[numpy.int64]


def decided(weights: Weights, block: int) -> Decided:
    """Which domains a block of rows since the weights changed is of."""
    for before in range(block):  # one after another, since each goes on from the last
        decide(weights, before)
    return decide(weights, block)


def counted(weights: Weights, rows: int) -> NDArray[numpy.int64]:
    """How many of the first rows of these weights are of each domain."""
    block, rest = divmod(rows, _BLOCK)
    whole = decided(weights, block - 1).counts if block else numpy.zeros(len(weights), dtype=numpy.int64)
    if not rest:
        return whole
    return whole + numpy.bincount(decided(weights, block).domains[:rest], minlength=len(weights))


@functools.lru_cache(maxsize=1 << 14)
def decide(weights: Weights, block: int) -> Decided:
    """A block after the one before it: of the domains that are due, the one whose next row has the nearest deadline."""
    before = decide(weights, block - 1).counts if block else numpy.zeros(len(weights), dtype=numpy.int64)
    counts, slack = list(map(int, before)), 1 / (2 * max(2, len(weights)) - 2)
    found = numpy.empty(_BLOCK, dtype=numpy.int16)
    for place in range(_BLOCK):
        row = block * _BLOCK + place + 1
        owed = [weight * row - count for weight, count in zip(weights, counts, strict=True)]
        due = [d for d in range(len(weights)) if owed[d] >= slack - 1e-9] or range(len(weights))
        chosen = min(due, key=lambda d: ((1 - slack - owed[d]) / weights[d], d))
        counts[chosen] += 1
        found[place] = chosen
    return Decided(found, numpy.array(counts, dtype=numpy.int64))
