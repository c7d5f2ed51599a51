"""Part `throughput`: tokens a second of recovery, and of a plain loop over transformers' own class, at one batch."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from part import GIB, Part, now, peak_gib, release, reset_peak, run_part
from shapes import LARGE, SMALL, TINY, RandomRows, Shape, make_model

from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.training.options import TrainOptions
from graphprune.training.train import train

LR = 1e-4


@dataclass(frozen=True)
class Batch:
    """A step has `rows` rows of `length` tokens; the first `warm` of `steps` are not counted."""

    rows: int
    length: int
    steps: int
    warm: int

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclass
class Clock:
    """Times the steps after the warm ones, each end with nothing left to do on the card."""

    batch: Batch
    began: float = field(default_factory=now)
    first: float = 0.0
    counted: float = 0.0

    def at_row(self, row: int) -> None:
        """Rows are asked for where a step begins."""
        step = row // self.batch.rows
        if step == 1:
            self.first = now() - self.began
        if step == self.batch.warm:
            self.counted = now()

    def speed(self) -> float:
        """Tokens a second of the counted steps, once all are done."""
        return self.batch.tokens * (self.batch.steps - self.batch.warm) / (now() - self.counted)


@dataclass(frozen=True, eq=False)
class Subject:
    """A shape as a graph on the processor, how it is trained, and what the card gives at best in FLOP/s."""

    shape: Shape
    graph: Graph
    batch: Batch
    device: torch.device
    peak: float

    def describe(self, speed: float, first: float, forwards: int) -> dict[str, Any]:
        """A row; a teacher's forward is a third of a forward and backward of the student."""
        each = self.shape.flops_per_token(self.graph.parameter_count(), self.batch.length) * (3 + forwards) / 3
        return {
            "batch": f"{self.batch.rows} x {self.batch.length}",
            "tokens_per_second": round(speed, 1),
            "tflops": round(speed * each / 1e12, 3),
            "share_of_peak": round(speed * each / self.peak, 4),
            "peak_gib": peak_gib(),
            "first_step_seconds": round(first, 2),
        }


def measure_recovery(subject: Subject, distill: float = 0.0, **chosen: Any) -> Mapping[str, Any]:
    """`train` as `recover` calls it: forward, backward, clipping, AdamW; with further options of training."""
    batch = subject.batch
    reset_peak()
    clock, speeds = Clock(batch), list[float]()
    options = TrainOptions(
        steps=batch.steps,
        rows=batch.rows,
        lr=LR,
        precision="bf16",
        keep="last",
        device=str(subject.device),
        distill=distill,
        teacher_dtype="bf16" if distill else "none",
        divergence=100.0,  # random tokens teach nothing
        **chosen,
    )
    stream = RandomRows(batch.length, subject.shape.vocabulary, clock.at_row)

    def report(moment: Any) -> None:
        if moment.step == moment.steps:  # before weights and moments are moved back
            speeds.append(clock.speed())

    train(subject.graph, options, stream, subject.graph if distill else None, report=report)
    return subject.describe(speeds[-1], clock.first, forwards=int(distill > 0))


def measure_plain(subject: Subject, compiled: bool) -> Mapping[str, Any]:
    """What one writes without graphprune: autocast, transformers' own loss, clipping, fused AdamW."""
    batch, device = subject.batch, subject.device
    model = make_model(subject.shape, device).train()
    reset_peak()
    clock = Clock(batch)
    stream = RandomRows(batch.length, subject.shape.vocabulary, clock.at_row)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    run = torch.compile(model) if compiled else model
    for step in range(batch.steps):
        ids = stream.rows(step * batch.rows, batch.rows)[0].to(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = run(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return subject.describe(clock.speed(), clock.first, forwards=0)


def measure_peak(device: torch.device, size: int, repeats: int = 10) -> float:
    """FLOP/s of a large product in bf16, on numbers that are not zero: the median of several."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(repeats + 3):
        began = now()
        torch.matmul(left, right)
        times.append(now() - began)
    return 2 * size**3 / sorted(times[3:])[repeats // 2]


def make_subject(shape: Shape, batch: Batch, part: Part, peak: float) -> Subject:
    """Weights are drawn on the card and captured on the processor, where `compile` has them."""
    began = time.monotonic()
    model = make_model(shape, part.device).to("cpu")
    graph = capture(model)
    print(f"{shape.name}: {graph.parameter_count():,} parameters in {time.monotonic() - began:.0f} s", flush=True)
    release()
    return Subject(shape, graph, batch, part.device, peak)


WAYS = {
    "recover, eager": measure_recovery,
    "transformers, eager": partial(measure_plain, compiled=False),
    "recover, compiled": partial(measure_recovery, compile=True),
    "recover, compiled, distilled": partial(measure_recovery, compile=True, distill=0.5),
}
LAST = {"transformers, compiled": partial(measure_plain, compiled=True)}  # says least and compiles once more


def measure(part: Part) -> None:
    size = 256 if part.tiny else 8192
    peak = measure_peak(part.device, size)
    part.add(shape=f"{size} x {size}", way="one product in bf16", tflops=round(peak / 1e12, 3), share_of_peak=1.0)
    if torch.cuda.is_available() and not part.tiny:
        print(f"{torch.cuda.get_device_properties(0).total_memory / GIB:.1f} GiB on the card", flush=True)
    tiny = Batch(2, 32, 3, 1)
    shapes = {TINY: tiny} if part.tiny else {SMALL: Batch(16, 2048, 24, 4), LARGE: Batch(4, 2048, 20, 4)}
    subjects = []
    for shape, batch in shapes.items():
        subjects.append(make_subject(shape, batch, part, peak))
        for way, work in WAYS.items():
            part.attempt(partial(work, subjects[-1]), shape=shape.name, way=way)
    for subject in subjects:
        for way, work in LAST.items():
            part.attempt(partial(work, subject), shape=subject.shape.name, way=way)


if __name__ == "__main__":
    run_part("throughput", measure)
