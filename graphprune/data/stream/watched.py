"""Watched batches: methods go through them and say nothing, and yet it is told how far they are."""

from collections.abc import Callable, Sequence
from typing import TypeVar, final, overload

T = TypeVar("T")


@final
class Watched(Sequence[T]):
    """A sequence that reports the place of each item that is taken, once again from the first where it is gone through
    again."""

    def __init__(self, items: Sequence[T], report: Callable[[int], None]) -> None:
        self.items, self.report, self.taken = items, report, 0

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        found = self.items[place]
        self.report(self.taken % max(1, len(self.items)))
        self.taken += 1
        return found
