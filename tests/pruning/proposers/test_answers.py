"""Answers are kept: a search that goes on asks nothing twice, and bears with a few that do not come."""

from pathlib import Path

import pytest

from graphprune.errors import SourceError
from graphprune.pruning.proposers.answers import Answers


class Clerk:
    """Answers with the number of the question, and fails at some."""

    def __init__(self, *failing: int) -> None:
        self.failing, self.heard = failing, list[str]()

    def __call__(self, text: str, tokens: int, number: int, /) -> str:
        self.heard.append(text)
        if number in self.failing:
            raise SourceError("the line is dead")
        return f"{number}: {text}"


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "run" / "answers.jsonl"
    whole = Answers(Clerk(1), path)
    first = [whole(text, 8) for text in "abc"]
    assert first == ["0: a", None, "2: c"]
    assert (whole.asked, whole.lost) == (3, 1)
    with path.open("a") as file:
        file.write('{"question": "d", "ans')
    clerk = Clerk()
    again = Answers(clerk, path)
    assert [again(text, 8) for text in "abc"] == first
    assert (clerk.heard, again.lost) == ([], 1)
    assert again("d", 8) == "3: d"
    assert clerk.heard == ["d"]
    assert Answers(clerk, path).known == [("a", "0: a"), ("b", ""), ("c", "2: c"), ("d", "3: d")]


def test_another_question_is_asked_and_what_followed_the_old_one_goes(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    before = Answers(Clerk(), path)
    for text in "abc":
        before(text, 8)
    other = Answers(Clerk(), path)
    assert [other(text, 8) for text in "ax"] == ["0: a", "1: x"]
    assert Answers(Clerk(), path).known == [("a", "0: a"), ("x", "1: x")]


def test_a_first_that_does_not_come_ends_it_and_so_do_three_in_a_row() -> None:
    with pytest.raises(SourceError, match="the line is dead"):
        Answers(Clerk(0))("a", 8)
    answers = Answers(Clerk(1, 2, 4, 5, 6))
    assert [answers("a", 8) for _ in range(6)] == ["0: a", None, None, "3: a", None, None]
    with pytest.raises(SourceError, match="3 answers in a row did not come; of the last: the line is dead"):
        answers("a", 8)
