"""Load log: which expert was read when and why, and which was computed with, a JSON line for each."""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final


@dataclass(frozen=True)
class Loads:
    """What streaming came to: bytes of experts' weights, seconds of the clock, visits of one expert of one stack each.

    `peak` are the most bytes in memory or on their way. `found` of the visits had their expert in memory, for `awaited`
    of them a load was on its way. `guessed` are loads of what was likely and not yet asked for, `useless` those of them
    that went before they were.
    """

    budget: int
    peak: int
    visits: int
    found: int
    awaited: int
    loads: int
    loaded_bytes: int
    load_seconds: float
    waited_seconds: float
    guessed: int
    useless: int


@final
class LoadLog:
    """Writes lines to a file where there is one; times are seconds since it was made. Any thread may write."""

    def __init__(self, path: Path | None = None) -> None:
        self.file = None if path is None else path.open("w", encoding="utf-8")
        self.began = time.perf_counter()
        self.lock = threading.Lock()

    def now(self) -> float:
        return time.perf_counter() - self.began

    def write(self, event: str, **fields: Any) -> None:
        """Add a line."""
        if self.file is None:
            return
        rounded: Mapping[str, Any] = {k: round(v, 6) if isinstance(v, float) else v for k, v in fields.items()}
        with self.lock:
            self.file.write(json.dumps({"event": event, **rounded}) + "\n")

    def close(self) -> None:
        if self.file is not None:
            with self.lock:
                self.file.close()
            self.file = None
