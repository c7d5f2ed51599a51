"""Damaged inputs of every kind: a few of those that `make fuzz` makes, none of which is an internal error."""

import subprocess
import sys

from tests.support.tree import ROOT


def test_damaged_inputs_are_refused_in_a_line() -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "fuzz.py"), "--count", "24", "--seed", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    whole = done.stdout.splitlines()[-1]
    assert whole.startswith("| all | ")
    assert " | 0 | 0 | 0 | 0 | " in whole
