"""Timing: how fast models run, from several runs that take turns: the median, and how far the runs are apart."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from graphprune.errors import UsageError

LARGEST_SPREAD = 0.15  # beyond, what else ran on the machine was measured too, and no speed is said
_RUNS, _PARTS, _LONG = 5, 4, 0.25


@dataclass(frozen=True)
class Rate:
    """Tokens a second: the median of `runs` runs. `spread` is the middle half of the runs over the median, None for one
    run."""

    value: float
    spread: float | None
    runs: int

    @property
    def steady(self) -> bool:
        """Whether the runs are near enough to each other for their median to be told."""
        return self.spread is None or self.spread <= LARGEST_SPREAD


class Timed(Protocol):
    """What makes tokens and says how long that took."""

    def run_timed(self, prompt_length: int, new_tokens: int) -> tuple[float, float]:
        """Seconds of the prefill, and of the steps after it."""


def rate_of(tokens: int, seconds: Sequence[float]) -> Rate:
    """The rate at which runs made so many tokens each."""
    middle = statistics.median(seconds)
    if len(seconds) < 2:
        return Rate(tokens / middle, None, len(seconds))
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Rate(tokens / middle, (high - low) / middle, len(seconds))


def rates_in_turns(
    models: Sequence[Timed],
    prompt: int,
    new: int,
    runs: int = _RUNS,
    report: Callable[[int, int], None] = lambda *_: None,
) -> list[tuple[Rate, Rate]]:
    """Prefill and decoding of each model, run by run in turns, so that a busy moment of the machine meets all.

    What takes little time is run in four parts, which makes a prefill long enough to be timed. The first runs, which
    allocate, do not count. `report(done, runs)` is told of progress. Raises UsageError
    where there is nothing to measure.
    """
    if prompt < 1 or new < 1:
        raise UsageError("measuring needs a prompt of at least one token and at least one new token")
    began = time.perf_counter()
    for model in models:
        model.run_timed(prompt, 1)
    short = time.perf_counter() - began < _LONG * len(models)
    parts, each = (_PARTS, max(1, new // _PARTS)) if short else (1, new)
    found: list[list[tuple[float, float]]] = [[] for _ in models]
    for done in range(runs):
        report(done, runs)
        for times, model in zip(found, models, strict=True):
            prefills, decodes = zip(*(model.run_timed(prompt, each) for _ in range(parts)), strict=True)
            times.append((sum(prefills), sum(decodes)))
    return [
        (rate_of(parts * prompt, [p for p, _ in times]), rate_of(parts * each, [d for _, d in times]))
        for times in found
    ]
