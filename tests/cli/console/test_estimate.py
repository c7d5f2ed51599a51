"""How much longer it takes: stages by what they took so far, equal parts by their own pace."""

import pytest

from graphprune.cli.console.estimate import COMPILATION, Estimate, words

EXPECTED = {"read": 2.0, "pruning": 4.0, "write": 1.0, "check": 3.0}
ONE = (1, 1)


def test_what_stages_took_says_what_the_others_will() -> None:
    estimate = Estimate(EXPECTED, 0.0)
    estimate.tell(0.0, "read", 0, 0, ONE)
    assert estimate.left(1.0) == pytest.approx(9.0), "as expected, until something is known"
    estimate.tell(20.0, "pruning", 0, 0, ONE)  # ten times as slow
    assert estimate.left(20.0) == pytest.approx(80.0)
    assert estimate.left(40.0) == pytest.approx(60.0)
    estimate.tell(60.0, "write", 0, 0, ONE)
    estimate.tell(70.0, "check", 0, 0, ONE)
    assert estimate.left(90.0) == pytest.approx(10.0)


def test_a_stage_that_says_how_far_it_is_needs_no_expectation() -> None:
    estimate = Estimate(EXPECTED, 0.0)
    estimate.tell(0.0, "read", 0, 0, ONE)
    estimate.tell(2.0, "pruning", 0, 10, ONE)
    estimate.tell(12.0, "pruning", 5, 10, ONE)
    left = estimate.left(12.0)
    assert left is not None
    assert 14.0 <= left <= 18.0, "as long again, and write and check at this pace or a slower one"


def test_a_stage_that_nobody_expected_hides_nothing() -> None:
    estimate = Estimate(EXPECTED, 0.0)
    estimate.tell(0.0, "a note", 0, 0, ONE)
    assert estimate.left(1.0) is None
    estimate.tell(1.0, "write", 0, 0, ONE)
    estimate.tell(2.0, "something else", 0, 0, ONE)
    assert estimate.left(2.0) == pytest.approx(3.0)


def test_a_stage_that_nobody_expected_says_how_far_it_is() -> None:
    estimate = Estimate(EXPECTED, 0.0)
    estimate.tell(0.0, "write", 0, 0, ONE)
    estimate.tell(1.0, "least squares", 0, 10, ONE)
    estimate.tell(41.0, "least squares", 4, 10, ONE)
    assert estimate.left(41.0) == pytest.approx(60.0 + 3.0), "its own pace, and check behind it"


def test_equal_parts_go_on_at_their_own_pace() -> None:
    estimate = Estimate(EXPECTED, 0.0)
    estimate.tell(0.0, "read", 0, 0, ONE)
    estimate.tell(2.0, "pruning", 0, 0, (1, 4))
    assert estimate.left(3.0) is None
    estimate.tell(102.0, "training", 0, 100, (2, 4))
    assert estimate.left(102.0) == pytest.approx(300.0 + 4.0)
    estimate.tell(202.0, "training", 100, 100, (2, 4))
    assert estimate.left(202.0) == pytest.approx(200.0 + 4.0)
    estimate.tell(402.0, "write", 0, 0, ONE)
    left = estimate.left(402.0)
    assert left is not None
    assert left >= 3.0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, ""),
        (0.0, "about 5 s left"),
        (42.0, "about 40 s left"),
        (200.0, "about 3 min left"),
        (9000.0, "about 2.5 h left"),
    ],
)
def test_it_is_said_roughly(seconds: float | None, said: str) -> None:
    assert words(seconds) == said


def test_the_stages_of_a_compilation_come_to_something() -> None:
    assert all(seconds > 0 for seconds in COMPILATION.values())
