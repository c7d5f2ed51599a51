"""Every model of transformers' mappings, and of torchvision and timm, small and random, through the whole compiler.

    python benchmarks/conformance.py
    python benchmarks/conformance.py --suite all

Suites: causal (the one that is run where none is named), masked, seq2seq, image, dual and plain. The last needs
`pip install --no-deps --target FOLDER torchvision==0.28.0 timm` and FOLDER in PYTHONPATH: where torch is the build for
processors, torchvision in the environment itself would break transformers. Each architecture runs in a process of its
own with limits on time and memory, as many at once as there are cores. What was found is appended to
OUT/conformance.jsonl (causal) or OUT/conformance-SUITE.jsonl; a second run goes on with what is missing.
--retry-failed runs again what failed. The page docs/architectures.md is written at the end, and by --page-only
from what is there.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from conformance_page import page
from conformance_suites import TITLES, entries

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
RESULTS = Path(__file__).parent / "results"
ONE = Path(__file__).parent / "conformance_one.py"


def results_file(out: Path, suite: str) -> Path:
    return out / ("conformance.jsonl" if suite == "causal" else f"conformance-{suite}.jsonl")


def examine(name: str, class_name: str, limit: int) -> dict[str, Any]:
    """One architecture in a process of its own; what ends it is its result."""
    command = [sys.executable, "-W", "ignore", str(ONE), name, class_name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    base: dict[str, Any] = {"name": name, "class": class_name, "seconds": {}, "failed": "process"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, env=environment, check=False, cwd=ONE.parent
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return base | {"error": f"not done after {limit} s"}
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines()
        return base | {"error": f"ended with {done.returncode}: {(lines or [''])[-1][:300]}"}


def read_results(path: Path, key: str = "name") -> dict[str, dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {entry[key]: entry for entry in map(json.loads, lines)}


def run_suite(suite: str, arguments: argparse.Namespace) -> None:
    """Run what is wanted of one suite and write its results as they come."""
    path = results_file(arguments.out, suite)
    every, known = entries(suite), read_results(path)
    wanted = [n for n in every if n not in known or (arguments.retry_failed and known[n]["failed"])]
    wanted = [name for name in arguments.only if name in every] if arguments.only else wanted
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = {pool.submit(examine, name, every[name], arguments.limit): name for name in wanted}
        for number, job in enumerate(as_completed(jobs), 1):
            result = job.result()
            known[result["name"]] = result
            said = f"{result['failed']}: {result['error']}" if result["failed"] else "passed"
            print(f"{suite} {number}/{len(jobs)} {result['name']}: {said}"[:250], flush=True)
            path.write_text("".join(json.dumps(known[name]) + "\n" for name in sorted(known)), encoding="utf-8")


def suite_results(suite: str, out: Path) -> list[dict[str, Any]]:
    """What is known of a suite, in the order of its mapping; of plain modules, whatever was run."""
    known = read_results(results_file(out, suite))
    return list(known.values()) if suite == "plain" else [known[name] for name in entries(suite) if name in known]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=[*TITLES, "all"], default="causal", help="which classes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for results")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is written")
    parser.add_argument("--only", nargs="+", help="these model types alone, whatever is known of them")
    parser.add_argument("--retry-failed", action="store_true", help="run again what failed")
    parser.add_argument("--page-only", action="store_true", help="write the page from what is there")
    parser.add_argument("--limit", type=int, default=300, help="seconds for one architecture")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="architectures at once")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for suite in [] if arguments.page_only else TITLES if arguments.suite == "all" else [arguments.suite]:
        run_suite(suite, arguments)
    found = {suite: suite_results(suite, arguments.out) for suite in TITLES}
    arguments.page.write_text(
        page(found, read_results(arguments.out / "conformance-peer.jsonl", "key")), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
