"""Watched batches are the batches, and tell how far whoever goes through them has come."""

import pytest

from graphprune.data.stream.watched import Watched


def test_each_item_that_is_taken_is_reported_and_each_sweep_begins_anew() -> None:
    told: list[int] = []
    watched = Watched(("a", "b", "c"), told.append)
    assert list(watched) == ["a", "b", "c"]
    assert told == [0, 1, 2]
    assert [item for item, _ in zip(watched, range(2), strict=False)] == ["a", "b"]
    assert told[3:5] == [0, 1]


def test_it_is_a_sequence_like_the_one_it_watches() -> None:
    watched = Watched((1, 2, 3), lambda _: None)
    assert (len(watched), watched[-1], watched[:2], 2 in watched) == (3, 3, (1, 2), True)
    with pytest.raises(IndexError):
        watched[3]
    assert not Watched((), lambda _: None)
