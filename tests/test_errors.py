"""Errors of others become ours in one place; the first line that says anything is what a user reads."""

import pytest

from graphprune.errors import DataError, UsageError, first_line, foreign


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("plain"), "plain"),
        (ValueError("\n\n  indented\nmore"), "indented"),
        (ValueError(""), "ValueError"),
        (KeyError(), "KeyError"),
        (OSError(2, "No such file"), "[Errno 2] No such file"),
    ],
)
def test_the_first_line_that_says_anything(error: Exception, said: str) -> None:
    assert first_line(error) == said


def test_what_others_raise_becomes_ours_with_its_cause() -> None:
    with (
        pytest.raises(DataError, match="cannot be read: gone") as caught,
        foreign(lambda e: DataError(f"cannot be read: {e}")),
    ):
        raise RuntimeError("gone")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_our_own_errors_pass_as_they_are() -> None:
    ours = UsageError("give --data")
    with pytest.raises(UsageError) as caught, foreign(lambda e: DataError("never")):
        raise ours
    assert caught.value is ours


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_user_who_stops_is_not_explained_away(stop: type[BaseException]) -> None:
    with pytest.raises(stop), foreign(lambda e: DataError("never")):
        raise stop
