"""Tracking: the steps of a training go to a tracker of experiments, through accelerate, as one run for all stages."""

import contextlib
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from graphprune.errors import ForeignError, UsageError, first_line, foreign_code
from graphprune.pipeline.options import CompileOptions
from graphprune.processes import is_first
from graphprune.progress import Progress

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from graphprune.training.metrics import Line, Track

PROJECT = "graphprune"
RUNS = "runs"  # beside OUT, for tensorboard


def check_tracker(name: str | None) -> None:
    """Raise UsageError where the package of a tracker is not installed."""
    if name is not None and not is_installed(name):
        raise UsageError(f"--tracker {name}: its package is not installed; pip install {name}")


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@contextlib.contextmanager
def tracked(options: CompileOptions, progress: Progress) -> "Iterator[Track]":
    """What takes the lines of a training; it begins the run with the first of them, and ends it with the block."""
    from graphprune.training.metrics import no_track

    if options.tracker is None or not is_first():
        yield no_track
        return
    run = Run(options, progress)
    try:
        yield run
    finally:
        run.finish()


@final
@dataclass
class Run:
    """A run of a tracker. One that fails is left, and the training goes on: its metrics are in OUT in any case."""

    options: CompileOptions
    progress: Progress
    tracker: "GeneralTracker | None" = None
    failed: bool = False

    def __call__(self, lines: "Sequence[Line]") -> None:
        if self.failed or not lines:
            return
        try:
            with foreign_code():
                if self.tracker is None:
                    self.tracker = begin(self.options)
                for line in lines:
                    self.tracker.log(numbers(line), step=line["step"])
        except ForeignError as failure:
            self.leave(failure)

    def finish(self) -> None:
        if self.tracker is not None and not self.failed:
            try:
                with foreign_code():
                    self.tracker.finish()
            except ForeignError as failure:
                self.leave(failure)

    def leave(self, failure: ForeignError) -> None:
        self.failed = True
        self.progress(
            f"the tracker {self.options.tracker} failed ({first_line(failure)[:100]}); the work goes on", 0, 0
        )


def begin(options: CompileOptions) -> "GeneralTracker":
    """A new run, named as OUT is, which knows what was asked for. Code of others."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    assert options.out is not None
    name, made = options.out.name, LOGGER_TYPE_TO_CLASS[str(options.tracker)]
    if made.requires_logging_directory:
        tracker = made(name, str(options.out.absolute().with_name(RUNS)))
    else:
        tracker = made(PROJECT, **{"run_name" if options.tracker == "mlflow" else "name": name})
    tracker.start()
    asked = {"target": " ".join(options.target), "method": options.method, "seed": options.seed}
    tracker.store_init_configuration(asked)
    return tracker


def numbers(line: "Mapping[str, object] | Line") -> dict[str, float]:
    """The finite numbers of a line by name, those of its terms and domains behind a slash."""
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": number for inner, number in numbers(value).items()}
        elif isinstance(value, (int, float)) and name != "step" and math.isfinite(value):
            found[name] = float(value)
    return found
