"""Bypass Back-propagation against where it starts from and against Wanda-sp, on text that no search saw.

    python benchmarks/bypass.py --data-root ../shared/data [--only stories260K stories3M] [--work FOLDER] [--seeds 3]

`start` is the same recipe after one step of no length: the largest of the probabilities that the search begins with.
Runs `graphprune compare`, whose cells are kept in FOLDER; prints bits per byte, and in how many seeds both are above.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

MODELS = {"stories260K": "models/stories260K-hf", "stories3M": "models/stories3M-hf"}
METHODS = "wanda-sp,start=bypass+prune.importance=policy{steps=1,rate=1e-12},bypass"
TARGETS = ("70%", "50%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", choices=tuple(MODELS), default=tuple(MODELS))
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "results" / "bypass")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    for name in given.only:
        subprocess.run(command(name, given), check=True)
        print(page(name, read_cells(given.work / name)), flush=True)


def command(name: str, given: argparse.Namespace) -> list[str]:
    root = given.data_root.resolve()
    stories = root / "corpora" / "tinystories"
    text = ["--data", str(stories / "tinystories_train_head_2MiB.txt"), "--samples", "2048", "--length", "64"]
    told = ["--held-out", str(stories / "tinystories_val_794K.txt"), "--bytes", "100000"]
    asked = ["--methods", METHODS, "--targets", ",".join(TARGETS), "--seeds", str(given.seeds)]
    program = "from graphprune.cli.main import main; main()"
    out = ["-o", str(given.work / name), "--overwrite"]
    return [sys.executable, "-c", program, "compare", str(root / MODELS[name]), *out, *asked, *text, *told]


def read_cells(work: Path) -> Mapping[tuple[str, str], Mapping[int, float]]:
    """Bits per byte by target and method, and by seed."""
    found: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for path in sorted((work / "cells").glob("*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        if cell.get("target") in TARGETS and cell.get("measured"):
            found[cell["target"], cell["method"]][cell["seed"]] = cell["measured"]["bits_per_byte"]
    return found


def page(name: str, bits: Mapping[tuple[str, str], Mapping[int, float]]) -> str:
    lines = [f"| {name} | wanda-sp | start | bypass | below both |", "|---|---|---|---|---|"]
    for target in TARGETS:
        columns = [bits.get((target, method), {}) for method in ("wanda-sp", "start", "bypass")]
        seeds = sorted(set.intersection(*map(set, columns)))
        shown = (", ".join(f"{column[seed]:.3f}" for seed in seeds) for column in columns)
        below = sum(columns[2][seed] < min(columns[0][seed], columns[1][seed]) for seed in seeds)
        lines.append(f"| {target} | {' | '.join(shown)} | {below} of {len(seeds)} seeds |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
