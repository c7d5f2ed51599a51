"""Whether two trees write the same: the artefacts of a list of commands, byte for byte, and what they print.

    python benchmarks/same_results.py record FOLDER [--graphprune EXECUTABLE] [--data-root ../shared/data]
    python benchmarks/same_results.py compare A B

`record` writes FOLDER/results.json, and leaves what the commands wrote in FOLDER/work. It takes five to ten minutes.
`compare` prints what is equal and what differs, and exits with 1 on a difference. Nothing is left out of the comparison
but what MEASURED names: times, and the hashes of files that hold them.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
STORIES, TEXT = Path("models/stories260K-hf"), Path("corpora/tinystories/tinystories_train_head_2MiB.txt")
TEXT_BYTES = 200_000
EVERY = "huggingface,onnx,ort,ort{precision=fp16},ort{precision=int8},ort{precision=int4},gguf"
LOOK = ("--samples", "8", "--length", "32", "--json")
HALF, SMALL = ("--target-params", "60%"), ("--data", "stories.txt")
STOCK = ("--uniform", "--backends", "huggingface,gguf{precision=q8_0}")
UP, DOWN = "model.layers.0.mlp.up_proj.weight:0", "model.layers.0.mlp.down_proj.weight:1"
# Commands by name, in the order in which they run.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "help": ("--help",),
    "help compile": ("compile", "--help"),
    "list": ("list", "--json"),
    "unknown method": ("compile", "demo", "-o", "none", *HALF, "--method", "tailor"),
    "unreachable": ("compile", "demo", "--dry-run", "--target-params", "1%"),
    "inspect demo": ("inspect", "demo", "--json"),
    "inspect demo as text": ("inspect", "demo"),
    "inspect demo graph": ("inspect", "demo", "--graph", "--json"),
    "inspect stories": ("inspect", "stories260K", "--json"),
    "explain": ("explain", "demo", UP, DOWN),
    "dry run demo": ("compile", "demo", "--dry-run", *HALF, *LOOK),
    "dry run stories": ("compile", "stories260K", "--dry-run", *HALF, *SMALL, *LOOK),
    "dry run size": ("compile", "demo", "--dry-run", "--target-size", "60%", *LOOK),
    "dry run cache": ("compile", "demo", "--dry-run", "--target-kv-bytes", "50%", *LOOK),
    "demo": ("compile", "demo", "-o", "small", *HALF, "--backends", EVERY, *LOOK),
    "stories": ("compile", "stories260K", "-o", "stories", *HALF, *SMALL, "--backends", EVERY, *LOOK),
    "stock": ("compile", "stories260K", "-o", "stock", *HALF, *SMALL, *STOCK, *LOOK),
    "solved": ("compile", "stories260K", "-o", "solved", *HALF, *SMALL, "--method", "adapt-pruner-ls", *LOOK),
    "trained": (
        *("compile", "stories260K", "-o", "trained", *HALF, *SMALL, "--method", "adapt-accel", "--stages", "2"),
        *("--train-tokens", "4k", "--backends", "huggingface", *LOOK),
    ),
    "tokens": ("compile", "demo", "-o", "tokens", "--vocabulary", "50%", *LOOK),
    "applied": ("apply", "stories/graphprune/plan.json", "stories260K", "-o", "applied", "--json"),
    "verify": ("verify", "small", "--json"),
    "eval": ("eval", "demo", "--bytes", "5000", "--json"),
    "eval all": ("eval", "solved", "--backend", "all", *SMALL, "--bytes", "5000", "--json"),
}
REPORT, PAGE = "graphprune/report.json", "graphprune/report.html"
HASHED = ("README.md", "graphprune/reference.safetensors", "graphprune/metrics.jsonl")
STDOUT = "stdout"


@dataclass(frozen=True)
class Measured:
    """What no two runs have in common: the places where it stands, each matched by the groups of a pattern."""

    what: str
    files: tuple[str, ...]
    pattern: str


_SPEED = r"onnxruntime (?:prefill|decode) tokens/s"
# Every exception from byte for byte; each group of a match is replaced by a star.
MEASURED = (
    Measured("how long the run took", (REPORT, STDOUT), r'"seconds": ([\d.]+)'),
    Measured("how long the run took, in words", (PAGE,), r"by graphprune with [^<\n]*, seed \d+, in ([\d.]+ \w+)</p>"),
    Measured(
        "tokens a second",
        (REPORT, STDOUT),
        rf'"name": "{_SPEED}",\s+"before": ([\d.]+|null),\s+"after": ([\d.]+|null)',
    ),
    Measured("tokens a second, in the card", ("README.md",), rf"^\| {_SPEED} \| (.*) \| (.*) \|$"),
    Measured(
        "tokens a second, in the table", (PAGE,), rf"<tr><td>{_SPEED}</td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>"
    ),
    Measured(
        "tokens a second, in the tile", (PAGE,), rf'>{_SPEED}</span><b>(.*?)</b><span class="soft">(.*?)</span></div>'
    ),
    Measured("tokens a second of training", ("graphprune/metrics.jsonl",), r'"tokens_per_s": ([\d.]+)'),
    Measured(
        "hashes of the files above",
        (REPORT, STDOUT),
        rf'"path": "(?:{"|".join(map(re.escape, HASHED))})",\s+"bytes": (\d+),\s+"sha256": "(\w+)"',
    ),
)


def blank(name: str, text: str) -> str:
    """The text of a file, or of stdout, without what is measured."""
    for each in MEASURED:
        if any(fnmatch(name, pattern) for pattern in each.files):
            text = re.sub(each.pattern, blank_groups, text, flags=re.MULTILINE)
    return text


def blank_groups(match: re.Match[str]) -> str:
    text, start = match[0], match.start()
    for group in range(len(match.groups()), 0, -1):
        text = text[: match.start(group) - start] + "*" + text[match.end(group) - start :]
    return text


def sort_metadata(data: bytes) -> bytes:
    """A safetensors file whose metadata is sorted: its writer takes their order from a hash table seeded anew."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    return data[:8] + json.dumps(header).encode() + data[8 + length :]


def digest(name: str, data: bytes) -> str:
    """The hash of a file, without what is measured where it is one of those that hold such."""
    if name == "graphprune/reference.safetensors":
        data = sort_metadata(data)
    elif any(fnmatch(name, pattern) for each in MEASURED for pattern in each.files):
        data = blank(name, data.decode()).encode()
    return hashlib.sha256(data).hexdigest()


def hash_files(out: Path) -> dict[str, str]:
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return {name: digest(name, (out / name).read_bytes()) for name in names}


def prepare(work: Path, model: Path, text: Path) -> None:
    """The folder that commands run in: a copy of model and text, so that no path differs between two records."""
    shutil.copytree(model, work / "stories260K")
    with text.open("rb") as file:
        (work / "stories.txt").write_bytes(file.read(TEXT_BYTES))


def run(executable: Path, name: str, work: Path) -> dict[str, Any]:
    """One command: how it ended, what it printed, and the hashes of what it wrote."""
    arguments, began = COMMANDS[name], time.monotonic()
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "100"}
    command = [str(executable), *arguments]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, env={**os.environ, **fixed})
    found: dict[str, Any] = {"exit": done.returncode, STDOUT: blank(STDOUT, done.stdout)}
    if done.returncode:
        found["stderr"] = done.stderr
    out = work / arguments[arguments.index("-o") + 1] if "-o" in arguments else None
    found["files"] = hash_files(out) if out else {}
    print(
        f"{time.monotonic() - began:6.1f} s  exit {done.returncode}  {len(found['files']):3} files  {name}", flush=True
    )
    return found


def record(folder: Path, executable: Path, model: Path, text: Path) -> None:
    work = folder / "work"
    if work.exists():
        raise SystemExit(f"{work} exists; remove it, or name another folder")
    work.mkdir(parents=True)
    prepare(work, model, text)
    results = {}
    for name in COMMANDS:
        results[name] = run(executable, name, work)
        (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """What differs between two results of a command, a line each."""
    found = [f"exit: {left['exit']}, {right['exit']}"] if left["exit"] != right["exit"] else []
    for part in (STDOUT, "stderr"):
        found += [f"{part}, {line}" for line in first_difference(left.get(part, ""), right.get(part, ""))]
    ours, theirs = left["files"], right["files"]
    found += [f"{name}: only in the first" for name in ours if name not in theirs]
    found += [f"{name}: only in the second" for name in theirs if name not in ours]
    return found + [f"{name}: other bytes" for name in ours if name in theirs and ours[name] != theirs[name]]


def first_difference(left: str, right: str) -> list[str]:
    """The first line that differs, or nothing."""
    if left == right:
        return []
    ours, theirs = [*left.splitlines(), "(end)"], [*right.splitlines(), "(end)"]
    at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
    return ["line ends"] if at is None else [f"line {at + 1}: {ours[at].strip()} | {theirs[at].strip()}"]


def compare(first: Path, second: Path) -> int:
    """Print a row for every command; gives how many differ."""
    left, right = (json.loads((each / "results.json").read_text(encoding="utf-8")) for each in (first, second))
    differing, files = 0, 0
    print("| command | exit | characters printed | files | equal |\n|---|---|---|---|---|")
    for name in [*left, *(n for n in right if n not in left)]:
        known = name in left and name in right
        lines = differences(left[name], right[name]) if known else ["only in one of them"]
        each = left.get(name) or right[name]
        print(
            f"| {name} | {each['exit']} | {len(each[STDOUT]):,} | {len(each['files'])} | {'no' if lines else 'yes'} |"
        )
        print("".join(f"    {line}\n" for line in lines), end="")
        differing, files = differing + bool(lines), files + len(each["files"])
    print(f"\n{len(left)} commands, {files} files: {differing or 'none'} of the commands differ")
    return differing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    recording = parts.add_parser("record", help="run the commands")
    recording.add_argument("folder", type=Path)
    recording.add_argument("--graphprune", type=Path, default=Path(sys.executable).parent / "graphprune")
    root = Path(os.environ.get("GRAPHPRUNE_DATA", ROOT.parent / "shared" / "data"))
    recording.add_argument("--data-root", type=Path, default=root, help="where the small model and its text are")
    recording.add_argument("--model", type=Path, help="another small Llama than the data's stories260K")
    comparing = parts.add_parser("compare", help="compare two records")
    comparing.add_argument("first", type=Path)
    comparing.add_argument("second", type=Path)
    options = parser.parse_args()
    if options.part == "compare":
        raise SystemExit(1 if compare(options.first, options.second) else 0)
    model = options.model or options.data_root / STORIES
    record(options.folder, options.graphprune.absolute(), model, options.data_root / TEXT)


if __name__ == "__main__":
    main()
