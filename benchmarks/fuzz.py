"""Damaged inputs of every kind against the command line: what becomes an internal error, a traceback, or a stray file.

    python benchmarks/fuzz.py --count 3000 --seed 1

Each input is drawn from the seed and its number alone, and runs in a process of its own, a fork of one that has all
imported, with bounds on its memory and time. A Markdown table is printed, and below it what was found, each with its
number: `--only GROUP:NUMBER` shows it again.
"""

import argparse
import contextlib
import gc
import importlib
import os
import pkgutil
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
SECONDS, BYTES = 60, 3 << 30
TRACEBACK = re.compile(r"^Traceback \(most recent call last\)", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What became of one input: how it ended, what it said, what it left behind, seconds, and bytes at its peak."""

    group: str
    number: int
    line: Sequence[str]
    code: int
    said: str
    stray: tuple[str, ...]
    seconds: float
    memory: int

    @property
    def faults(self) -> tuple[str, ...]:
        """The kinds of fault that it shows; none where it was refused in one line, or did what was asked."""
        errors = [line for line in self.said.splitlines() if line.startswith("error: ")]
        found = {
            "internal error": "internal error" in self.said,
            "traceback": TRACEBACK.search(self.said) is not None,
            "killed": self.code < 0,
            "no message": self.code > 0 and not errors,
            "several lines": len(errors) > 1,
            "stray files": bool(self.stray),
        }
        return tuple(name for name, there in found.items() if there)


def run_input(group: str, number: int, seed: int, base: Path) -> Outcome:
    """Draw an input and give it to the command line, in a child of this process."""
    make = next(make for make, _ in GROUPS if make.__name__ == group)
    with tempfile.TemporaryDirectory(prefix="graphprune-fuzz-", ignore_cleanup_errors=True) as name:
        root = Path(name)
        for part in ("in", "in/work", "home", "tmp"):
            (root / part).mkdir()
        line = make(random.Random(f"{seed}:{group}:{number}"), base, root / "in")
        line = [text.replace("\0", "") for text in line]
        before = files_in(root / "in")
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            run_child(line, root)
        _, status, usage = os.wait4(child, 0)
        said = (root / "said").read_text(encoding="utf-8", errors="replace")
        stray = sorted(path for path in files_in(root / "in") ^ before if not is_output(path))
        code = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
    return Outcome(group, number, line, code, said, tuple(stray), seconds, usage.ru_maxrss * 1024)


def files_in(folder: Path) -> set[str]:
    """The files below a folder with their sizes and times, so that a changed one counts as another."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in found}


def is_output(path: str) -> bool:
    return path.startswith(("out/", ".out."))


def run_child(line: Sequence[str], root: Path) -> None:
    """Run one command line, and end."""
    code = 99
    try:
        os.setsid()
        said = os.open(root / "said", os.O_CREAT | os.O_WRONLY)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(root / "in" / "work")
        os.environ.update(HOME=str(root / "home"), TMPDIR=str(root / "tmp"))
        tempfile.tempdir = None
        bound()
        sys.stdout, sys.stderr = (open(fd, "w", encoding="utf-8", closefd=False) for fd in (1, 2))  # noqa: SIM115
        from graphprune.cli.console.terminal import prepare_streams
        from graphprune.cli.main import run

        prepare_streams()
        code = run([*arguments(line)])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def arguments(line: Sequence[str]) -> Iterator[str]:
    """What a shell could pass: bytes that are no UTF-8 reach Python as lone halves of characters."""
    for text in line:
        yield text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


def bound() -> None:
    """Bound the memory beyond what is there already, the time of the processor, and that which a sleeper takes."""
    there = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (there + BYTES, there + BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(4 * SECONDS)


def import_all() -> None:
    """Import what the commands need once, so that a child begins at once."""
    import onnx
    import onnxruntime
    import transformers

    import graphprune

    for package in (onnx, onnxruntime, transformers, transformers.models.llama.modeling_llama):
        assert package
    for module in pkgutil.walk_packages(graphprune.__path__, "graphprune."):
        if not module.name.endswith("lm_eval_adapter"):
            importlib.import_module(module.name)


def in_a_child(base: Path) -> None:
    """Write the whole models in a process of its own: where torch has computed, its threads do not outlive a fork."""
    child = os.fork()
    if child == 0:
        try:
            write_models(base)
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the models that are to be damaged could not be written")


def numbers(count: int) -> Iterator[tuple[str, int]]:
    """The inputs of a run: each group its part, and one at least; groups take turns."""
    total = sum(part for _, part in GROUPS)
    places = [
        (number / (count * part), make.__name__, number)
        for make, part in GROUPS
        for number in range(count * part // total + 1)
    ]
    yield from ((name, number) for _, name, number in sorted(places))


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A row for each group, and one for all."""
    yield (
        "| inputs of | run | refused in a line | done | internal errors | tracebacks | killed | stray files "
        "| most s | most MiB |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    groups = [make.__name__ for make, _ in GROUPS if any(each.group == make.__name__ for each in outcomes)]
    for name in (*groups, ""):
        rows = [each for each in outcomes if name in ("", each.group)]
        faults = [fault for each in rows for fault in each.faults]
        counts = [faults.count(kind) for kind in ("internal error", "traceback", "killed", "stray files")]
        refused = sum(each.code > 0 and not each.faults for each in rows)
        done = sum(each.code == 0 and not each.faults for each in rows)
        most = f"{max(each.seconds for each in rows):.1f} | {max(each.memory for each in rows) >> 20:,}"
        cells = " | ".join(f"{count:,}" for count in (len(rows), refused, done, *counts))
        yield f"| {name.replace('_', ' ') or 'all'} | {cells} | {most} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="GROUP, or GROUP:NUMBER, whose output is shown")
    given = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    import_all()
    base = Path(tempfile.mkdtemp(prefix="graphprune-fuzz-base-"))
    try:
        in_a_child(base)
        gc.freeze()  # or each child would copy all that it looks through for garbage
        outcomes: list[Outcome] = []
        with contextlib.suppress(KeyboardInterrupt):  # what ran until then is shown
            for group, number in chosen(given.count, given.only):
                outcomes.append(run_input(group, number, given.seed, base))
                if len(outcomes) % 100 == 0:
                    print(f"{len(outcomes):,} inputs", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    if given.only and ":" in given.only:
        print(outcomes[0].line, outcomes[0].code, outcomes[0].said, outcomes[0].stray, sep="\n")
    print("\n".join(table(outcomes)))
    bad = [each for each in outcomes if each.faults]
    for each in bad:
        last = (each.said.strip().splitlines() or [""])[-1]
        print(
            f"\n{each.group}:{each.number} {', '.join(each.faults)} (exit {each.code}): {last[:300]} {each.stray or ''}"
        )
    return 1 if bad else 0


def chosen(count: int, only: str | None) -> Iterator[tuple[str, int]]:
    """All inputs, those of a group, or one."""
    group, _, number = (only or "").partition(":")
    if number:
        yield group, int(number)
    else:
        yield from (each for each in numbers(count) if group in ("", each[0]))


if __name__ == "__main__":
    from fuzz_inputs import GROUPS
    from fuzz_models import write_models

    sys.exit(main())
