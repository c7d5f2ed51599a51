"""What every part has: where it may work, rows written as they come, and clocks and peaks that wait for the card."""

import argparse
import gc
import json
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

GIB = 2**30


@dataclass(frozen=True)
class Part:
    """One run of a part. `failures` are the rows that hold an error; `data` has the models and corpora, `joined` what
    came in pieces, `work` is kept between runs."""

    name: str
    out: Path
    tiny: bool
    limit: float
    data: Path
    joined: Path
    work: Path
    began: float = field(default_factory=time.monotonic)
    failures: list[str] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.tiny else torch.device("cuda", 0)

    @property
    def left(self) -> float:
        """Seconds until the part is killed."""
        return self.limit - (time.monotonic() - self.began)

    def add(self, **row: Any) -> None:
        """Write a row, whole and at once, so that what is killed later keeps it."""
        write_row(self.out, {"part": self.name, **row, **stamp(self.tiny)})
        print(json.dumps(row), flush=True)

    def attempt(self, work: Callable[[], Mapping[str, Any]], **row: Any) -> bool:
        """Write what `work` measures as a row; where it fails the row says why, and the part goes on."""
        try:
            self.add(**row, **work())
        except Exception as error:
            traceback.print_exc()
            line = next(iter(str(error).strip().splitlines()), "")
            self.failures.append(f"{row}: {error}")
            self.add(**row, error=f"{type(error).__name__}: {line[:300]}")
            return False
        finally:
            release()
        return True


def write_row(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file; one that was cut short is passed over."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def stamp(tiny: bool) -> dict[str, Any]:
    """What a figure must be read with: the card, the day, the versions."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() and not tiny else "CPU"
    day = date.today().isoformat()
    return {
        "card": card,
        "date": day,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "tiny": tiny,
    }


def release() -> None:
    """Give back what a failed or finished measurement still holds on the card."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def now() -> float:
    """The time once the card has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float | None:
    """The most memory that tensors took on the card since the last reset; None without a card."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    return round(torch.cuda.max_memory_allocated() / GIB, 2)


def resident_gib() -> float:
    """What this process holds of the host's memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / GIB


@contextmanager
def watch_host(every: float = 0.02) -> Iterator[Callable[[], float]]:
    """Gives a function that returns the most memory of the host in GiB since it was last called."""
    done, seen = threading.Event(), [resident_gib()]

    def sample() -> None:
        while not done.wait(every):
            seen[0] = max(seen[0], resident_gib())

    def take() -> float:
        found, seen[0] = max(seen[0], resident_gib()), 0.0
        return round(found, 2)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield take
    finally:
        done.set()
        thread.join()


def require_files(data: Path | None, *folders: str) -> None:
    """End the part in one line where a folder is not below the data's; None needs none."""
    missing = [folder for folder in folders if data is not None and not (data / folder).is_dir()]
    if missing:
        raise SystemExit(f"no {', '.join(missing)} below {data}: give --data-root, see docs/gpu.md")


def run_part(name: str, measure: Callable[[Part], None]) -> None:
    """The program of a part: read where to work, measure, and exit with 1 where a row holds an error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--limit", type=float, default=240.0)
    for place in ("--data", "--joined", "--work"):
        parser.add_argument(place, type=Path, required=True)
    options = parser.parse_args()
    if options.tiny:
        torch.set_num_threads(1)
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    part = Part(name, options.out, options.tiny, options.limit, options.data, options.joined, options.work)
    measure(part)
    for failure in part.failures:
        print(f"failed: {failure}", file=sys.stderr)
    sys.exit(1 if part.failures else 0)
