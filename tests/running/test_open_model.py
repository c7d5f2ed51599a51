"""What every open model shares: tokens up to a stop, row by row, and how fast they come."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np
import pytest
from numpy.typing import NDArray

from graphprune.errors import UsageError
from graphprune.running.open_model import Array, Ids, OpenModel
from graphprune.running.sampling import GREEDY, Sampling


@final
class Counting(OpenModel):
    """Each row goes on counting from the last of its prompt."""

    path = Path("counting")
    inputs = outputs = ("ids",)
    precision, provider = "fp32", "none"

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(feeds)

    def empty_past(self, batch: int) -> tuple[Array, ...]:
        return ()

    def run(
        self, ids: Array, mask: Array, positions: Array, past: Sequence[Array] | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        raise NotImplementedError

    def steps(self, ids: Ids, sampling: Sampling = GREEDY, room: int = 256) -> Iterator[NDArray[np.int64]]:
        last = np.array([row[-1] for row in ids])
        for step in range(1, room):
            yield last + step


def test_each_row_ends_before_its_own_stop() -> None:
    made = Counting().generate([[1], [5], [90]], max_new_tokens=6, stop=(4, 7))
    assert made == [[2, 3], [6], [91, 92, 93, 94, 95, 96]]


def test_nothing_is_made_where_nothing_is_asked_for() -> None:
    assert Counting().generate([[1], [2]], max_new_tokens=0) == [[], []]


def test_a_stream_is_the_row_that_generate_makes() -> None:
    model = Counting()
    assert list(model.stream([3, 8], 9, stop=(12,))) == model.generate([[3, 8]], 9, stop=(12,))[0] == [9, 10, 11]


@pytest.mark.parametrize(("prompt", "new"), [(0, 4), (4, 0)])
def test_speed_needs_something_to_measure(prompt: int, new: int) -> None:
    with pytest.raises(UsageError, match="at least one"):
        Counting().tokens_per_second(prompt, new)


def test_speeds_are_tokens_by_their_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenModel, "run_timed", lambda self, prompt, new: (0.5, 0.25 * new))
    prefill, decode = Counting().tokens_per_second(8, 3)
    assert (prefill.value, decode.value, decode.spread) == (16.0, 4.0, 0.0)
