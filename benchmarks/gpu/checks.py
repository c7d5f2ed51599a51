"""Part `checks`: every test that is marked `gpu`, a row as each ends; with --tiny on the stand-in for a GPU."""

import os
import subprocess
import sys
from pathlib import Path

from part import Part, run_part
from prepare import ROOT


def marked_files() -> list[str]:
    """The files of tests that name the marker; to collect all others takes longer than to run these."""
    found = sorted((ROOT / "tests").glob("test_*.py"))
    return [str(path) for path in found if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]


def command(part: Part) -> list[str]:
    """Without parallel processes, a cache, or warnings as errors: kernels of other versions may warn."""
    options = ["-m", "gpu", "-n", "0", "-p", "no:cacheprovider", "-p", "check_rows", "-W", "default", "-ra"]
    options += ["--show-capture=all", "--timeout=150"]
    # The stand-in shows every kind of test; the suite runs all of them on it elsewhere.
    options += ["--stand-in", "-k", "device or groups or evaluation or moments"] if part.tiny else []
    return [sys.executable, "-m", "pytest", *options, *marked_files()]


def measure(part: Part) -> None:
    here = str(Path(__file__).resolve().parent)
    paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
    own = {"GRAPHPRUNE_ROWS": str(part.out), "GRAPHPRUNE_TINY": "1" if part.tiny else "", "PYTHONPATH": paths}
    code = subprocess.run(command(part), cwd=ROOT, env={**os.environ, **own}, check=False).returncode
    if code:
        part.failures.append(f"pytest ended with {code}")


if __name__ == "__main__":
    run_part("checks", measure)
