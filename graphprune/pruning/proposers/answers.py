"""Answers: what a language model wrote to each question of a search, kept, so that no question is asked twice."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, final

from graphprune.errors import GraphpruneError, SourceError
from graphprune.pruning.search.journal import whole_lines

_PATIENCE = 3  # answers one after the other that may fail to come


class Writer(Protocol):
    """What writes an answer. Raises GraphpruneError where none comes.

    `number` says which question of the search it is, so that chance can be the same after a stop.
    """

    def __call__(self, text: str, tokens: int, number: int, /) -> str: ...


@final
class Answers:
    """The answers of a writer to one question after another, in a file as soon as they are there.

    A search that goes on puts its first questions anew and finds the answers in the file.
    """

    def __init__(self, write: Writer, path: Path | None = None) -> None:
        self.write, self.path = write, path
        kept = whole_lines(path) if path is not None and path.is_file() else []
        self.known = [(str(line["question"]), str(line["answer"])) for line in kept]
        self.asked, self.in_turn = 0, 0

    @property
    def lost(self) -> int:
        """How many of the answers did not come."""
        return sum(not answer for _, answer in self.known[: self.asked])

    def __call__(self, text: str, tokens: int) -> str | None:
        """The answer to the next question, None where it did not come.

        Raises the writer's error where the first does not come, SourceError where several in a row do not.
        """
        number = self.asked
        if number >= len(self.known) or self.known[number][0] != text:
            answer = self.ask(text, tokens, number)
            fits = number == len(self.known)
            self.known = [*self.known[:number], (text, answer)]
            self.keep(self.known[number:] if fits else self.known, "a" if fits else "w")
        self.asked += 1
        return self.known[number][1] or None

    def ask(self, text: str, tokens: int, number: int) -> str:
        """What is written, nothing where no answer comes."""
        try:
            answer = self.write(text, tokens, number)
        except GraphpruneError as error:
            self.in_turn += 1
            if number == 0:
                raise
            if self.in_turn == _PATIENCE:
                raise SourceError(f"{_PATIENCE} answers in a row did not come; of the last: {error}") from error
            return ""
        self.in_turn = 0
        return answer

    def keep(self, lines: Sequence[tuple[str, str]], mode: Literal["a", "w"]) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open(mode, encoding="utf-8") as file:
            file.writelines(json.dumps({"question": text, "answer": answer}) + "\n" for text, answer in lines)
