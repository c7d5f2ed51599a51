"""Progress: what a long piece of work tells whoever waits for it."""

from collections.abc import Callable

# Takes the stage in a few words, how much of it is done, and of how much (0: not known).
Progress = Callable[[str, int, int], None]


def no_progress(stage: str, done: int, total: int) -> None:
    """The progress that is shown nowhere."""
