"""Metrics: a JSON line a step, the same numbers for TensorBoard, and how fast it goes."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, Protocol, TypedDict, final

from torch import Tensor

from graphprune.errors import UsageError

_PATIENCE = 1.0  # seconds for which measurements may wait on the device before they are read


class Line(TypedDict):
    """A line of metrics.jsonl: a step in the whole schedule, the tokens of this stage, losses in nats a token."""

    step: int
    stage: int
    tokens: int
    loss: float
    ce: float
    kd: float | None
    lr: float
    grad_norm: float | None
    tokens_per_s: float
    held_out: float | None
    terms: NotRequired[dict[str, float]]
    learner: NotRequired[dict[str, float]]
    domains: NotRequired[dict[str, float]]
    weights: NotRequired[list[float]]


@dataclass(frozen=True)
class Moment:
    """Where a training is: steps done, of how many, the last losses, how fast it goes, how much longer it takes.

    `lines` are those of metrics since the moment before.
    """

    step: int
    steps: int
    loss: float
    held_out: float | None
    tokens_per_second: float
    seconds_left: float
    lines: Sequence[Line] = ()

    def __str__(self) -> str:
        held = "" if self.held_out is None else f", held out {self.held_out:.3f}"
        left = format_seconds(self.seconds_left)
        return f"loss {self.loss:.3f}{held}, {self.tokens_per_second:,.0f} tokens/s, {left} left"


Report = Callable[[Moment], None]


def no_report(moment: Moment) -> None:
    """The report that is read nowhere."""


Track = Callable[[Sequence[Line]], None]


def no_track(lines: Sequence[Line]) -> None:
    """The tracker that keeps nothing."""


def format_seconds(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Writer(Protocol):
    """What is used of TensorBoard's writer."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Measured:
    """One step, still on the device: [loss, cross entropy, divergence, gradient norm], the rate, the tokens, and what
    its learner adds to the loss, by name, in nats a token, and what else it remarks."""

    step: int
    values: Tensor
    rate: float
    tokens: int
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    remarks: Mapping[str, float] = field(default_factory=dict)


@final
class Metrics:
    """Collects measurements and reads them about once a second, since reading one waits for the device.

    `folder` None writes nothing; `size` is how much of the file is from before a resumption and stays.
    """

    def __init__(self, folder: Path | None, size: int = 0, tensorboard: bool = False, purge: int = 0) -> None:
        self.path = None if folder is None else folder / "metrics.jsonl"
        self.waiting: list[Measured] = []
        self.began = self.read = time.monotonic()
        self.done = 0
        self.writer = open_tensorboard(folder, purge) if folder is not None and tensorboard else None
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            with self.path.open("r+b") as file:
                file.truncate(size)

    @property
    def size(self) -> int:
        """The length of the file, which a saved state keeps."""
        return 0 if self.path is None else self.path.stat().st_size

    def due(self) -> bool:
        return time.monotonic() - self.read >= _PATIENCE

    def take(self) -> tuple[list[tuple[Measured, list[float]]], float]:
        """The waiting measurements with their values read, and the tokens a second since the last reading."""
        rows = [(measured, measured.values.tolist()) for measured in self.waiting]
        now = time.monotonic()
        rate = sum(measured.tokens for measured in self.waiting) / max(now - self.read, 1e-9)
        self.done += len(rows)
        self.waiting, self.read = [], now
        return rows, rate

    def restart(self) -> None:
        """Leave the time since the last reading, which went into something else, out of the speed."""
        self.read = time.monotonic()

    def seconds(self, steps: int) -> float:
        """How long so many steps take, with all that went on between those of this process."""
        return (time.monotonic() - self.began) / max(1, self.done) * steps

    def write(self, lines: Sequence[Line]) -> None:
        """Append lines; numbers go to TensorBoard too."""
        if self.path is not None and lines:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        if self.writer is not None:
            for line in lines:
                for name, value in line.items():
                    if name != "step" and isinstance(value, (int, float)):
                        self.writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def open_tensorboard(folder: Path, purge: int) -> Writer:
    """A writer of event files. Raises UsageError where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("tensorboard is not installed; pip install graphprune[tensorboard]") from error
    writer: Writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
    return writer
