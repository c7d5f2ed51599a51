"""Threads: those that wait sleep, so that others can work, and small models use few."""

import contextlib
import os
from collections.abc import Iterator

# How the OpenMP of GNU and of Intel is told that threads sleep while they wait, where they would spin for milliseconds.
_ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
# Parameters below which a second thread waits longer than it works, and below which four are enough.
_ONE, _FOUR = 10_000_000, 100_000_000


def wait_asleep() -> None:
    """Let threads of this process, and of those it starts, sleep while they wait; before torch is imported.

    Where the user has said how they wait, that stays.
    """
    if not _ASLEEP.keys() & os.environ.keys():
        os.environ.update(_ASLEEP)


def thread_count(parameters: int) -> int | None:
    """How many threads a model of so many parameters pays for; None where the runtime's own choice is right.

    What the user says with OMP_NUM_THREADS comes first.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    if parameters >= _FOUR:
        return None
    return 1 if parameters < _ONE else min(4, processors())


def processors() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def threads_for(parameters: int) -> Iterator[None]:
    """Let torch compute with as many threads as a model of this size pays for."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(before, thread_count(parameters) or before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
