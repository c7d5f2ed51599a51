"""Splits: `corpus.txt#train` and `corpus.txt#held-out` are two parts of one source that share nothing."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

Part = Literal["train", "held-out"]
T = TypeVar("T")
# Of rows, every twentieth is held out, the first among them; of plain text the last tenth, and no more than this.
_EVERY, _SHARE, _MOST_BYTES = 20, 10, 200_000


def split_name(spec: str) -> tuple[str, Part | None]:
    """The name of a source, and the part of it that is meant: None for all of it."""
    for part in ("train", "held-out"):
        if spec.endswith(f"#{part}"):
            return spec.removesuffix(f"#{part}"), part
    return spec, None


def choose_rows(rows: Iterable[T], part: Part | None) -> Iterator[T]:
    """The rows of a part."""
    if part is None:
        return iter(rows)
    if part == "held-out":
        return itertools.islice(rows, 0, None, _EVERY)
    return (row for number, row in enumerate(rows) if number % _EVERY)


def choose_bytes(size: int, part: Part | None) -> tuple[int, int]:
    """Where in a plain text of so many bytes a part begins and ends."""
    held = min(_MOST_BYTES, max(1, size // _SHARE))
    return {None: (0, size), "train": (0, size - held), "held-out": (size - held, size)}[part]
