"""Progress: what a long piece of work tells whoever waits for it."""

from typing import Protocol


class Progress(Protocol):
    """Is told of a stage in a few words, how much of it is done, of how much (0: not known), and how it goes.

    `part` is which of several equal parts of the work the stage belongs to, and of how many.
    """

    def __call__(
        self, stage: str, done: int = 0, total: int = 0, detail: str = "", part: tuple[int, int] = (1, 1)
    ) -> None: ...


def no_progress(stage: str, done: int = 0, total: int = 0, detail: str = "", part: tuple[int, int] = (1, 1)) -> None:
    """The progress that is shown nowhere."""
