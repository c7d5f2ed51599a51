"""Speeds: medians of runs in turns, how far these are apart, and when no speed is told."""

import itertools
from collections.abc import Iterator

import pytest

from graphprune.errors import UsageError
from graphprune.running.timing import Rate, rate_of, rates_in_turns


def test_a_rate_is_the_median_and_one_outlier_moves_neither_it_nor_the_spread() -> None:
    assert rate_of(100, [1.0, 1.0, 1.0, 1.0, 50.0]) == Rate(100.0, 0.0, 5)
    assert rate_of(100, [1.0, 2.0, 2.0, 2.0, 3.0]).value == 50.0


def test_runs_far_apart_are_no_speed() -> None:
    assert rate_of(10, [1.0, 1.05, 1.1, 1.0, 1.05]).steady
    assert not rate_of(10, [1.0, 1.4, 1.0, 1.4, 1.2]).steady
    assert rate_of(10, [1.0]) == Rate(10.0, None, 1)
    assert rate_of(10, [1.0]).steady, "one run says nothing of a spread"


class Clock:
    """A model whose runs take seconds that are given, and that notes who ran when."""

    def __init__(self, name: str, log: list[str], seconds: Iterator[float]) -> None:
        self.name, self.log, self.seconds = name, log, seconds

    def run_timed(self, prompt_length: int, new_tokens: int) -> tuple[float, float]:
        self.log.append(f"{self.name}{new_tokens}")
        return next(self.seconds), 2.0


def test_models_take_turns_and_the_first_runs_do_not_count() -> None:
    log: list[str] = []
    models = [Clock(name, log, itertools.chain([99.0], itertools.repeat(0.5))) for name in "ab"]
    (prefill, decode), other = rates_in_turns(models, 8, 8, runs=2)
    assert log == ["a1", "b1", *[*["a2"] * 4, *["b2"] * 4] * 2]
    assert (prefill, decode) == other == (Rate(16.0, 0.0, 2), Rate(1.0, 0.0, 2))


@pytest.mark.parametrize(("prompt", "new"), [(0, 1), (1, 0)])
def test_there_must_be_something_to_measure(prompt: int, new: int) -> None:
    with pytest.raises(UsageError, match="at least one"):
        rates_in_turns((), prompt, new)
