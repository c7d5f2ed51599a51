"""Estimate: how much longer a compilation takes, from what its stages took so far."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

# The stages of a compilation in order, with the seconds of the embedded model's: their shares are what counts.
COMPILATION: Mapping[str, float] = {
    "reading the model": 4.0,
    "reading text": 0.7,
    "pruning": 4.5,
    "comparing with the masked model": 0.4,
    "measuring": 2.0,
    "writing": 0.8,
    "measuring speed": 1.1,
    "checking in a fresh process": 4.0,
    "writing the report": 0.8,
}
_KNOWN = 0.02  # of the parts, from which their own pace says how long they take


@final
@dataclass
class Estimate:
    """Seconds that are left, told as stages come and go; `expected` are the stages in order with their shares."""

    expected: Mapping[str, float]
    began: float
    spent: dict[str, float] = field(default_factory=dict)
    stage: str = ""
    since: float = 0.0
    share: float | None = None
    parts: float | None = None
    parts_began: float = 0.0

    def tell(self, now: float, stage: str, done: int, total: int, part: tuple[int, int]) -> None:
        """Note which stage it is and how far it has come."""
        if stage != self.stage:
            if self.stage:
                self.spent[self.stage] = self.spent.get(self.stage, 0.0) + now - self.since
            self.stage, self.since = stage, now
        self.share = done / total if total else None
        number, count = part
        if count > 1:
            self.parts_began = now if self.parts is None else self.parts_began
            self.parts = (number - 1 + (self.share or 0.0)) / count
        elif self.parts is not None:
            self.parts = 1.0

    def left(self, now: float) -> float | None:
        """Seconds that are left; None where nothing is known of it."""
        if self.parts is not None and self.parts < 1.0:
            if self.parts < _KNOWN:
                return None
            rest = (now - self.parts_began) * (1 - self.parts) / self.parts
            return rest + self.pace(now, before=True) * self.after("pruning")
        running, pace = now - self.since, self.pace(now)
        own = running * (1 - self.share) / self.share if self.share else None
        if self.stage in self.expected:
            own = max(0.0, self.expected[self.stage] * pace - running) if own is None else own
            return own + pace * self.after(self.stage)
        # Passes that only some methods have, such as least squares: what they do themselves says how long they take.
        known = [name for name in self.expected if name in self.spent]
        return (own or 0.0) + pace * self.after(known[-1]) if known else None

    def pace(self, now: float, before: bool = False) -> float:
        """Seconds for each expected one, of the stages that ended and of the present one where it took longer."""
        ended = [name for name in self.spent if name in self.expected and not (before and name == "pruning")]
        spent, expected = sum(self.spent[n] for n in ended), sum(self.expected[n] for n in ended)
        known, running = spent / expected if expected else 1.0, now - self.since
        if before or running <= known * self.expected.get(self.stage, math.inf):
            return known
        return (spent + running) / (expected + self.expected[self.stage])

    def after(self, stage: str) -> float:
        """What is expected of all stages behind this one."""
        names = list(self.expected)
        return sum(self.expected[name] for name in names[names.index(stage) + 1 :]) if stage in names else 0.0


def words(seconds: float | None) -> str:
    """`about 40 s left`, `about 3 min left`; nothing where it is not known."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"about {max(5, 5 * round(seconds / 5))} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 5400 else f"about {seconds / 3600:.1f} h left"
