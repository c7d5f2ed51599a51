"""Runs parts, each in a process of its own with a time limit, and shows what they wrote."""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prepare
from parts import LIMIT, PARTS, Part
from pieces import join_all
from tables import read_results, table, write_page

WHEELS = prepare.ROOT / "build" / "gpu-wheels"
TINY = {"TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "1"}  # compiling takes longer than all else at this size


@dataclass(frozen=True)
class Done:
    """How a part ended: `ok`, `failed` or `out of time`."""

    part: Part
    state: str
    seconds: float


def run_limited(command: Sequence[str], log: Path, limit: float, environment: Mapping[str, str]) -> tuple[str, float]:
    """Run a command with all that it starts as one group, which is killed at the limit; returns state and seconds."""
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=dict(environment), cwd=prepare.ROOT, process_group=0
        )
        try:
            code = process.wait(timeout=limit)
            state = "failed" if code else "ok"
        except subprocess.TimeoutExpired:
            state = "out of time"
        finally:
            kill_group(process)
    return state, round(time.monotonic() - began, 1)


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all of its group: those that it started hold the card too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_one(part: Part, options: argparse.Namespace, environment: Mapping[str, str], limit: float) -> Done:
    rows, log = options.out / f"{part.name}.jsonl", options.out / f"{part.name}.log"
    places = {"--out": rows, "--data": options.data_root, "--joined": joined(options), "--work": options.work}
    command = [sys.executable, "-W", "ignore", str(part.program), "--limit", str(limit)]
    command += [text for name, path in places.items() for text in (name, str(path.absolute()))]
    print(f"{part.name}: about {part.seconds} s on an H100, {limit:g} s at most", flush=True)
    state, seconds = run_limited([*command, *["--tiny"] * options.tiny], log, limit, environment)
    end = {"part": part.name, "state": state, "seconds": seconds, "estimate": part.seconds, "tiny": options.tiny}
    with rows.open("a", encoding="utf-8") as file:
        file.write(json.dumps(end) + "\n")
    if state != "ok":
        print("".join(f"  {line}\n" for line in log.read_text(errors="replace").splitlines()[-12:]), flush=True)
    return Done(part, state, seconds)


def joined(options: argparse.Namespace) -> Path:
    return Path(options.work / "joined")


def run_parts(options: argparse.Namespace) -> int:
    """Run the parts that are asked for in their order; 1 where one failed, 2 where none can run."""
    wheels = options.wheels or (WHEELS if WHEELS.is_dir() else None)
    environment = prepare.make_environment(options.work.absolute(), wheels, options.tiny)
    try:
        machine = prepare.probe(environment)
    except prepare.MachineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if machine.card is None and not options.tiny:
        found = f"torch {machine.torch} finds none here"
        print(f"error: the parts need a GPU, and {found}; --tiny runs each on the CPU in seconds", file=sys.stderr)
        return 2
    print(f"{machine.card or 'CPU'}, torch {machine.torch}, transformers {machine.transformers}", flush=True)
    if options.pieces:
        print("\n".join(join_all(options.pieces, joined(options))), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.tiny:
        environment |= TINY
    done = []
    for part in (PARTS[name] for name in options.parts):
        own = environment
        if part.gpu_runtime and not options.tiny:
            own = prepare.runtime_environment(environment, machine, options.work, joined(options))
        done.append(run_one(part, options, own, options.limit))
    show(done, options.out)
    return int(any(end.state != "ok" for end in done))


def show(done: Sequence[Done], folder: Path) -> None:
    """The rows of each part, and the table of how they ended last, where it is not cut off."""
    results = read_results([folder], tiny=True)
    for end in done:
        print(f"\n{end.part.name}\n{table(end.part, results.get(end.part.name, []))}")
    lines = [("part", "state", "seconds", "estimated")]
    lines += [(end.part.name, end.state, f"{end.seconds:.0f}", str(end.part.seconds)) for end in done]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(
        "\n" + "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines), flush=True
    )


def list_parts() -> None:
    for part in PARTS.values():
        print(f"{part.name}: {part.proves}.\n    about {part.seconds} s on an H100: {part.work}\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu/run", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, help="folder for PART.jsonl and PART.log; rows there are kept")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, at a size of seconds")
    parser.add_argument("--limit", type=float, default=float(LIMIT), help="seconds that a part may take")
    data = Path(os.environ.get("GRAPHPRUNE_DATA", prepare.ROOT.parent / "shared" / "data"))
    parser.add_argument("--data-root", type=Path, default=data, help="folder with models/ and corpora/")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that the parts see")
    parser.add_argument("--pieces", type=Path, help="folder of pieces, joined where a file is complete")
    work = Path(tempfile.gettempdir()) / "graphprune-gpu"
    parser.add_argument("--work", type=Path, default=work, help="what is kept between runs: caches, joined files")
    parser.add_argument("--list", action="store_true", help="say what each part proves and takes, and end")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FOLDER", help="print tables of earlier results")
    parser.add_argument("--page", type=Path, help="with --table: rewrite the tables of this page")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if not options.list and not options.table and not (options.parts and options.out):
        parser.error("name a part or more, and --out FOLDER; --list shows the parts")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and do what it asks for; returns the exit code."""
    options = parse(arguments)
    if options.list:
        list_parts()
        return 0
    if options.table:
        results: dict[str, list[dict[str, Any]]] = read_results(options.table)
        for part in PARTS.values():
            print(f"## {part.name}\n\n{table(part, results.get(part.name, []))}\n")
        if options.page:
            write_page(options.page, results)
        return 0
    # A terminated run must end its part too, which is in a group of its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return run_parts(options)
