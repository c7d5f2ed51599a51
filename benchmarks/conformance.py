"""Every causal language model of transformers, small and random, through the whole compiler.

    python benchmarks/conformance.py

Each architecture runs in a process of its own with limits on time and memory, as many at once as there are cores. What
was found is appended to OUT/conformance.jsonl; a second run goes on with what is missing. --retry-failed runs again
what failed. The page docs/architectures.md is written at the end, and by --page-only from what is there.
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

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
RESULTS = Path(__file__).parent / "results"
ONE = Path(__file__).parent / "conformance_one.py"


def architectures() -> dict[str, str]:
    """Model types and classes of the causal-LM mapping, a class once."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    first: dict[str, str] = {}
    for name, class_name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        first.setdefault(class_name, name)
    return {name: class_name for class_name, name in first.items()}


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


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {entry["name"]: entry for entry in map(json.loads, lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for results")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is written")
    parser.add_argument("--only", nargs="+", help="these model types alone, whatever is known of them")
    parser.add_argument("--retry-failed", action="store_true", help="run again what failed")
    parser.add_argument("--page-only", action="store_true", help="write the page from what is there")
    parser.add_argument("--limit", type=int, default=300, help="seconds for one architecture")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="architectures at once")
    arguments = parser.parse_args()
    path = arguments.out / "conformance.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    every, known = architectures(), read_results(path)
    wanted = [n for n in every if n not in known or (arguments.retry_failed and known[n]["failed"])]
    wanted = [] if arguments.page_only else arguments.only or wanted
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = {pool.submit(examine, name, every[name], arguments.limit): name for name in wanted}
        for number, job in enumerate(as_completed(jobs), 1):
            result = job.result()
            known[result["name"]] = result
            said = f"{result['failed']}: {result['error']}" if result["failed"] else "passed"
            print(f"{number}/{len(jobs)} {result['name']}: {said}"[:200], flush=True)
            path.write_text("".join(json.dumps(known[name]) + "\n" for name in sorted(known)), encoding="utf-8")
    arguments.page.write_text(page([known[n] for n in every if n in known], len(every)), encoding="utf-8")


if __name__ == "__main__":
    main()
