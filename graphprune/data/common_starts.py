"""Common starts: which of many texts begin alike, so that what they share is read once; and batches of like length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

Key = tuple[tuple[int, ...], int]  # a text, and how many tokens at its end are scored
_CALL = 16  # tokens that a call of the model costs beside its own
_LEAST = 4  # tokens that a group of texts saves
_SLACK = 3  # tokens by which the starts of a batch differ: they are read with what follows


@dataclass(frozen=True)
class Start:
    """Texts whose first `length` + 1 tokens are the same; each has another one at least.

    The first `length` are read once. The last of the same tokens is read with each text: it predicts what differs.
    """

    length: int
    keys: tuple[Key, ...]

    @property
    def scored(self) -> Key:
        """The start itself, and what of it any of the texts has scored."""
        first = min(len(text) - count for text, count in self.keys)
        return self.keys[0][0][: self.length + 1], max(0, self.length + 1 - first)


def find_starts(keys: Sequence[Key], most: int) -> list[Start]:
    """The groups of `most` texts at most that save most tokens; texts that none saves any of are in no group."""
    texts = sorted(keys)
    alike = [same(first[0], second[0]) for first, second in pairwise(texts)]

    def cost(begin: int, end: int) -> int:
        shared = min(alike[begin : end - 1], default=0)
        return _LEAST - (end - begin - 1) * shared if shared > 0 else (end - begin - 1)

    runs = [(begin, end) for begin, end in best_runs(len(texts), most, cost) if end - begin > 1]
    return [Start(min(alike[begin : end - 1]), tuple(texts[begin:end])) for begin, end in runs]


def same(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many tokens two texts can share, see `Start`."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one[:-1], other[:-1], strict=False))) - 1


def batch_starts(starts: Sequence[Start], size: int) -> list[list[Start]]:
    """Batches of `size` starts at most of nearly one length, the longest first, all cut to the shortest of them."""
    found: list[list[Start]] = []
    for start in sorted(starts, key=lambda start: (-start.length, start.keys)):
        if not found or len(found[-1]) == size or found[-1][0].length - start.length > _SLACK:
            found.append([])
        found[-1].append(start)
    return [[Start(batch[-1].length, start.keys) for start in batch] for batch in found]


def batches(keys: Sequence[Key], size: int) -> list[list[Key]]:
    """Batches of `size` texts at most that take the least work with their padding, the longest first.

    What does not fit into memory fails at once.
    """
    ordered = sorted(keys, key=lambda key: (-len(key[0]), key))
    runs = best_runs(len(ordered), size, lambda begin, end: len(ordered[begin][0]) * (end - begin) + _CALL)
    return [ordered[begin:end] for begin, end in runs]


def best_runs(count: int, most: int, cost: Callable[[int, int], int]) -> list[tuple[int, int]]:
    """Cut so many things in a row into runs (begin, end) of `most` at most, whose costs have the least sum."""
    best = [(0, 0)]  # the least cost of so many things, and the size of their last run
    for end in range(1, count + 1):
        sizes = range(1, min(most, end) + 1)
        best.append(min((best[end - size][0] + cost(end - size, end), size) for size in sizes))
    found = []
    while count:
        found.append((count - best[count][1], count))
        count = found[-1][0]
    return found[::-1]
