"""The process of one cell: it makes one model, measures it, and says on stdout what came of it, a line of JSON each."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, final

import torch
from pydantic import TypeAdapter

from graphprune.comparison.cells import Protocol
from graphprune.comparison.measuring import measure_tasks, measure_text
from graphprune.comparison.schema import Cost, Measured
from graphprune.compiler.compile import as_made, capture_for_work, prepare_method
from graphprune.compiler.goal import find_aim
from graphprune.compiler.request import with_precision
from graphprune.compiler.vocabulary_start import begin
from graphprune.errors import GraphpruneError, first_line, foreign
from graphprune.evaluation.bench_worker import peak_memory
from graphprune.garbage import end
from graphprune.ir.graph import Graph
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.passes import run_passes
from graphprune.pipeline.resolution import resolve_recipe
from graphprune.processes import process_began
from graphprune.progress import Progress
from graphprune.registry import load
from graphprune.running.devices import choose_device, device_peak, make_current
from graphprune.threads import threads_for, wait_asleep

_PAUSE = 0.5  # seconds between two lines of progress of one stage


@dataclass(frozen=True)
class Work:
    """What a process is asked for: the options of a compilation, how to measure, and where to keep the model.

    `dense` measures the source as it is.
    """

    asked: CompileOptions
    protocol: Protocol
    dense: bool
    keep: Path | None


@final
@dataclass
class Watch:
    """Seconds by the clock and of all processors, summed up over what was watched."""

    wall: float = 0.0
    processor: float = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        wall, processor = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall += time.perf_counter() - wall
            self.processor += time.process_time() - processor

    def cost(self) -> Cost:
        return Cost(wall=round(self.wall, 3), processor=round(self.processor, 3))


@dataclass(frozen=True)
class Watches:
    """What cutting took, and what training took."""

    cut: Watch = field(default_factory=Watch)
    training: Watch = field(default_factory=Watch)


class Peaks(NamedTuple):
    """The most bytes that the process has held, and that its tensors took of the GPU, None without one."""

    process: int
    device: int | None


def make_and_measure(work: Work, progress: Progress) -> Measured:
    """Make the model of a cell the way `compile` does, and measure it. Raises GraphpruneError."""
    asked, device, watches = work.asked, choose_device(work.asked.device), Watches()
    make_current(device)
    recipe = with_precision(resolve_recipe(asked), asked, device)
    source = capture_for_work(asked.model, asked.trust_remote_code, asked.part, progress)
    with threads_for(source.parameter_count()):
        aim = find_aim(asked, recipe, source, (), progress=progress)
        with begin(asked, aim, source, progress) as start:
            graph = source
            if not work.dense:
                method = prepare_method(asked, start, None, device, progress)
                training = load("passes", "recover")
                graph = start.graph
                for item in method.passes:
                    watch = watches.training if isinstance(item, training) else watches.cut
                    with watch.running():
                        graph = run_passes(graph, (item,), method.context)
                graph = as_made(start, graph)
            made = Peaks(peak_memory(), device_peak(device))
            if work.keep is not None:
                write_model(graph, work.keep)
            return measure(work, graph, aim.target.most, device, watches, made, progress)


def measure(
    work: Work, graph: Graph, wanted: int, device: torch.device, watches: Watches, made: Peaks, progress: Progress
) -> Measured:
    """What a finished model comes to; `made` are the peaks of memory until then."""
    text = measure_text(graph, work.protocol, device, progress)
    tasks = measure_tasks(graph, work.protocol, progress)
    found = text.found
    assert found.bits_per_byte is not None
    return Measured(
        parameters=graph.parameter_count(),
        wanted=wanted,
        nats_per_token=found.nats_per_token,
        perplexity=found.perplexity if found.perplexity < float("inf") else None,
        bits_per_byte=found.bits_per_byte,
        guess_bits=text.guess_bits,
        guess_nats=text.guess_nats,
        predicted=found.tokens,
        text_bytes=text.bytes,
        window=text.window,
        tasks=tasks,
        cut=watches.cut.cost(),
        training=watches.training.cost(),
        seconds=round(time.time() - process_began(), 1),
        peak_made=made.process,
        peak=peak_memory(),
        device_peak=made.device,
        threads=torch.get_num_threads(),
        device=str(device),
        notes=list(graph.notes),
    )


def write_model(graph: Graph, folder: Path) -> None:
    """Write a model as a checkpoint, whole or not at all; what an earlier run kept there is replaced."""
    from graphprune.artefacts.export import follow_umask, load_backends, record_files, write_all
    from graphprune.artefacts.outputs import write_record
    from graphprune.artefacts.staging import staging

    with staging(folder, True) as new:
        write_all(load_backends(("huggingface",)), graph, new)
        follow_umask(new)
        write_record(new, record_files(new))


@final
class Lines:
    """Progress as lines on stdout, of one stage no more than a few each second."""

    def __init__(self) -> None:
        self.stage, self.told = "", 0.0

    def __call__(
        self, stage: str, done: int = 0, total: int = 0, detail: str = "", part: tuple[int, int] = (1, 1)
    ) -> None:
        now = time.monotonic()
        if stage != self.stage or now - self.told > _PAUSE:
            self.stage, self.told = stage, now
            say({"progress": [stage, done, total]})


def say(line: dict[str, object]) -> None:
    print(json.dumps(line), file=sys.__stdout__, flush=True)


def main() -> int:
    """Read the work from stdin; the last line of stdout is what it came to, or why it failed."""
    wait_asleep()
    work = TypeAdapter(Work).validate_python(json.loads(sys.stdin.read()))
    try:
        with contextlib.redirect_stdout(sys.stderr), foreign(explain):
            measured = make_and_measure(work, Lines())
    except GraphpruneError as error:
        say({"error": " ".join(str(error).split())})
        return 1
    say({"measured": measured.model_dump()})
    return 0


def explain(error: Exception) -> GraphpruneError:
    import traceback

    traceback.print_exception(error)
    return GraphpruneError(f"{type(error).__name__}: {first_line(error)[:300]}")


if __name__ == "__main__":
    end(main())
