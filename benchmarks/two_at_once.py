"""What two compilations of the embedded model cost that run at the same time, on as many processors as there are.

    python benchmarks/two_at_once.py NAME=COMMAND ...

COMMAND is the `graphprune` of an installation, NAME what it is called in the table that is printed. Installations take
turns, and each turn is printed: on a machine that others use, the seconds of the processor are what compares.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROUNDS, AT_ONCE = 2, 2


def run_at_once(command: str) -> tuple[float, float]:
    """Seconds until both have ended, and seconds of the processor of one, on average."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        outs = [str(Path(name) / str(number)) for number in range(AT_ONCE)]
        lines = [[command, "compile", "demo", "-o", out, "--target-params", "60%"] for out in outs]
        nowhere = subprocess.DEVNULL
        running = [subprocess.Popen(line, stdout=nowhere, stderr=nowhere, env=environment) for line in lines]
        codes = [process.wait() for process in running]
        if any(codes):
            raise SystemExit(f"{command} failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, used / AT_ONCE


def main(given: Sequence[str]) -> None:
    print("| two at once | turn | wall s | processor s of each | load before |\n|---|---|---|---|---|", flush=True)
    for turn in range(1, ROUNDS + 1):
        for name, _, command in (each.partition("=") for each in given):
            load = os.getloadavg()[0]
            wall, used = run_at_once(command)
            print(f"| {name} | {turn} | {wall:.0f} | {used:.0f} | {load:.1f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
