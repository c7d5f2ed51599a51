"""Residents: the experts that are in memory, within a budget; the next is read while one is computed with."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, final

from torch import Tensor

from graphprune.errors import InvariantError
from graphprune.weights.expectation import Expectation
from graphprune.weights.load_log import LoadLog, Loads

_AT_ONCE = 2  # loads that are on their way together


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a stack's experts come from: `read` gives one in memory of its own, `expect` says that it will be read.

    Stacks of one `layer` are asked for the same experts, one after the other. `bytes` are those of one expert.
    """

    name: str
    layer: str
    experts: int
    bytes: int
    read: Callable[[int], Tensor]
    expect: Callable[[int], None]


class Piece(NamedTuple):
    """One expert of one stack."""

    stack: int
    expert: int


@final
class Residents:
    """Holds experts of stacks, `budget` bytes of them at most, with those on their way and the last one given out.

    Stacks are in the order in which a forward visits them. With `ahead`, a thread reads what will be asked for next.
    """

    def __init__(self, origins: Sequence[Origin], budget: int, log: LoadLog, ahead: bool = True) -> None:
        if budget < max((origin.bytes for origin in origins), default=0):
            raise InvariantError("a budget for experts holds the largest of them")
        self.origins, self.budget, self.log, self.ahead = tuple(origins), budget, log, ahead
        self.held: dict[Piece, Tensor] = {}
        self.coming: dict[Piece, Future[Tensor]] = {}
        self.guesses: set[Piece] = set()
        self.present: Piece | None = None
        self.used = self.peak = 0
        self.expectation = Expectation([origin.experts for origin in origins])
        self.reader = ThreadPoolExecutor(1, "experts")
        self.counts: Counter[str] = Counter()
        self.seconds = {"read": 0.0, "waited": 0.0}

    def visit(self, stack: int, experts: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Each of these experts with its weight: first those that are there, so that others come meanwhile."""
        here = [Piece(stack, expert) for expert in experts]
        here.sort(key=lambda piece: (piece not in self.held, piece not in self.coming))
        after, guesses = self.after(stack, experts), self.likely(stack)
        for piece in here:
            if piece not in self.held:
                self.origins[stack].expect(piece.expert)
        for place, piece in enumerate(here):
            sure = [*here[place + 1 :], *after]
            weight = self.obtain(piece, sure)
            self.look_ahead(sure, guesses)
            began = self.log.now()
            yield piece.expert, weight
            self.log.write("use", **self.describe(piece), began=began, ended=self.log.now())
        self.expectation.visited(stack, experts)

    def after(self, stack: int, experts: Collection[int]) -> list[Piece]:
        """What the later stacks of the same layer will be asked for."""
        layer = self.origins[stack].layer
        later = range(stack + 1, len(self.origins))
        return [Piece(each, expert) for each in later if self.origins[each].layer == layer for expert in experts]

    def likely(self, stack: int) -> list[Piece]:
        """What the next layer is likely to be asked for."""
        count, layer = len(self.origins), self.origins[stack].layer
        following = (each % count for each in range(stack + 1, stack + count))
        found = next((each for each in following if self.origins[each].layer != layer), None)
        return [] if found is None else [Piece(found, expert) for expert in self.expectation.likely(found)]

    def obtain(self, piece: Piece, sure: Sequence[Piece]) -> Tensor:
        """A weight, which is waited for where it is not there."""
        began = self.log.now()
        self.settle()
        self.present = None
        self.counts.update(visits=1, found=int(piece in self.held), awaited=int(piece in self.coming))
        if piece not in self.held:
            if piece not in self.coming:
                self.make_room(piece, sure, needed=True)
                self.begin(piece, "needed", None)
            self.finish(piece)
            self.seconds["waited"] += self.log.now() - began
        self.present = piece
        self.guesses.discard(piece)
        return self.held[piece]

    def look_ahead(self, sure: Sequence[Piece], guesses: Sequence[Piece]) -> None:
        """Begin to read what will be asked for, as far as there is room that nothing sooner needs."""
        wanted = [*((piece, "ahead") for piece in sure), *((piece, "guess") for piece in guesses)]
        for piece, why in wanted if self.ahead else ():
            if len(self.coming) >= _AT_ONCE:
                return
            if piece in self.held or piece in self.coming:
                continue
            if not self.make_room(piece, sure, needed=False):
                return
            self.begin(piece, why, self.present)

    def make_room(self, piece: Piece, sure: Sequence[Piece], needed: bool) -> bool:
        """Let go of what will be asked for last until a piece fits; says whether it does.

        Where it is needed now, everything may go. For what is read ahead that stays which is sure to be asked for, and
        for a guess also what is likely to be asked for before it.
        """
        places = {each: place - len(sure) for place, each in enumerate(sure)}  # all of them before what is only likely
        least = -len(sure) - 1.0 if needed else 0.0 if piece in places else self.expectation.wait(*piece)
        while self.used + self.origins[piece.stack].bytes > self.budget:
            waits = {each: places.get(each, self.expectation.wait(*each)) for each in self.held if each != self.present}
            last = max(waits, key=lambda each: waits[each], default=None)
            if last is not None and waits[last] >= least:
                self.let_go(last)
            elif needed and self.coming:
                self.finish(next(iter(self.coming)))
            else:
                return False
        return True

    def let_go(self, piece: Piece) -> None:
        del self.held[piece]
        self.used -= self.origins[piece.stack].bytes
        self.counts["useless"] += int(piece in self.guesses)
        self.guesses.discard(piece)

    def begin(self, piece: Piece, why: str, during: Piece | None) -> None:
        """Have the thread read a piece, for which there is room."""
        origin, asked = self.origins[piece.stack], self.log.now()
        beside = None if during is None else self.describe(during)
        self.used += origin.bytes
        self.peak = max(self.peak, self.used)
        self.counts.update(loads=1, bytes=origin.bytes, guessed=int(why == "guess"))
        if why == "guess":
            self.guesses.add(piece)
        fields = {**self.describe(piece), "bytes": origin.bytes, "why": why, "during": beside, "held": self.used}
        self.coming[piece] = self.reader.submit(self.read, piece, {**fields, "asked": asked})

    def read(self, piece: Piece, fields: dict[str, object]) -> Tensor:
        began = self.log.now()
        weight = self.origins[piece.stack].read(piece.expert)
        ended = self.log.now()
        self.seconds["read"] += ended - began
        self.log.write("load", **fields, began=began, ended=ended)
        return weight

    def settle(self) -> None:
        """Take what has come."""
        for piece in [each for each, load in self.coming.items() if load.done()]:
            self.finish(piece)

    def finish(self, piece: Piece) -> None:
        """Wait for a piece."""
        self.held[piece] = self.coming.pop(piece).result()

    def describe(self, piece: Piece) -> dict[str, object]:
        return {"stack": self.origins[piece.stack].name, "expert": piece.expert}

    def loads(self) -> Loads:
        """What it came to so far."""
        counts, seconds = self.counts, self.seconds
        return Loads(
            budget=self.budget, peak=self.peak, visits=counts["visits"], found=counts["found"],
            awaited=counts["awaited"], loads=counts["loads"], loaded_bytes=counts["bytes"],
            load_seconds=seconds["read"], waited_seconds=seconds["waited"],
            guessed=counts["guessed"], useless=counts["useless"],
        )  # fmt: skip

    def close(self) -> None:
        """Stop reading."""
        self.reader.shutdown(cancel_futures=True)
        self.log.close()
