"""Adapt-Pruner without training: adaptive allocation and least squares beside what they are built on, on real weights.

    python benchmarks/adapt_pruner.py --data-root ../shared/data

Writes the page docs/methods/adapt-pruner.md. Results are appended to OUT/adapt_pruner.jsonl as they are found, and are
not computed again on a second run; those of the committed page are in benchmarks/results. Everything follows from the
seeds: the same numbers come out on one machine.
"""

import argparse
import os
import resource
import time
from pathlib import Path

import torch
from adapt_pruner_page import page
from adapt_pruner_runs import CALIBRATION, measure_all

PAGE = Path(__file__).parent.parent / "docs" / "methods" / "adapt-pruner.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("GRAPHPRUNE_DATA", "../shared/data")
    parser.add_argument("--data-root", type=Path, default=Path(data), help="folder with models/, corpora/ and eval/")
    parser.add_argument("--out", type=Path, default=Path("/tmp/graphprune-benchmarks"), help="folder for results")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is written")
    parser.add_argument("--minutes", type=float, default=1e6, help="start nothing new after so long")
    options = parser.parse_args()
    if not (options.data_root / CALIBRATION).is_file():
        parser.error(f"no {CALIBRATION} under {options.data_root}; pass --data-root or set GRAPHPRUNE_DATA")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * options.minutes
    found = measure_all(options.data_root, options.out / "adapt_pruner.jsonl", until)
    options.page.write_text(page(found), encoding="utf-8")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB; wrote {options.page}")


if __name__ == "__main__":
    main()
