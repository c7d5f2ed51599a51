"""The stages of a long command on stderr: bars on a terminal, elsewhere lines, one at least every fifteen seconds."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from graphprune.cli.console.estimate import Estimate, words
from graphprune.cli.console.terminal import visible, warn
from graphprune.progress import Progress

QUIET = 15.0  # seconds without a line, at most


@contextlib.contextmanager
def progress_on_stderr(expected: Mapping[str, float] | None = None) -> Iterator[Progress]:
    """Show each stage on stderr; `expected` are the stages of a command that says how much longer it takes."""
    console = Console(file=sys.stderr)  # bound now: a capture redirects stderr, and the bars go on
    estimate = Estimate(expected or {}, time.monotonic())
    if not console.is_terminal:
        with Lines(estimate) as lines:
            yield lines
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        yield StageBars(bars, estimate)


def title(stage: str, part: tuple[int, int]) -> str:
    """The stage, with the part of the work that it belongs to where there are several."""
    number, count = part
    return f"{number}/{count} {stage}" if count > 1 else stage


@final
class Lines:
    """A line when a stage begins, and one at least every fifteen seconds that says how it goes.

    A thread prints the latter, since a stage may say nothing for long; it ends with the context.
    """

    def __init__(
        self,
        estimate: Estimate,
        out: Callable[[str], None] = warn,
        clock: Callable[[], float] = time.monotonic,
        quiet: float = QUIET,
    ) -> None:
        self.out, self.estimate, self.clock, self.quiet = out, estimate, clock, quiet
        self.stage, self.how, self.began, self.printed = "", "", clock(), clock()
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True, name="progress")

    def __enter__(self) -> "Lines":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def __call__(
        self, stage: str, done: int = 0, total: int = 0, detail: str = "", part: tuple[int, int] = (1, 1)
    ) -> None:
        with self.lock:
            now, name = self.clock(), title(stage, part)
            self.estimate.tell(now, stage, done, total, part)
            counted = f"{done:,} of {total:,}" if total else f"{done:,}" if done else ""
            self.how = ", ".join(filter(None, (counted, detail)))
            if name != self.stage:
                self.stage, self.began = name, now
                self.print(now, name)
            elif now - self.printed >= self.quiet:
                self.beat(now)

    def watch(self) -> None:
        """Print how it goes whenever nothing was printed for long, until the end."""
        while not self.ended.wait(min(1.0, self.quiet / 3)):
            with self.lock:
                now = self.clock()
                if self.stage and now - self.printed >= self.quiet - 1.0:
                    self.beat(now)

    def beat(self, now: float) -> None:
        self.print(now, ", ".join(filter(None, (self.stage, self.how, f"{now - self.began:.0f} s", self.left(now)))))

    def left(self, now: float) -> str:
        return words(self.estimate.left(now))

    def print(self, now: float, line: str) -> None:
        self.printed = now
        with contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more: the work goes on
            self.out(line)


@final
class StageBars:
    """One bar a stage, whose clock stops when the next begins, and a line below that says how long it still takes."""

    def __init__(self, bars: Bars, estimate: Estimate) -> None:
        self.bars, self.estimate = bars, estimate
        self.tasks: dict[str, TaskID] = {}
        self.now: TaskID | None = None

    def __call__(
        self, stage: str, done: int = 0, total: int = 0, detail: str = "", part: tuple[int, int] = (1, 1)
    ) -> None:
        moment, name = time.monotonic(), title(stage, part)
        self.estimate.tell(moment, stage, done, total, part)
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(Text(visible(name)).markup, total=None)
        task = self.tasks[name]
        if task != self.now:
            self.finish()
            self.now = task
            self.bars.tasks[self.bars.task_ids.index(task)].stop_time = None  # a stage that comes back goes on
        shown = ", ".join(filter(None, (name, detail, words(self.estimate.left(moment)))))
        self.bars.update(task, description=Text(visible(shown)).markup, completed=done, total=total or None)

    def finish(self) -> None:
        """The stage before has ended: its clock stops, and its bar is full."""
        if self.now is None:
            return
        ended = self.bars.tasks[self.bars.task_ids.index(self.now)]
        whole = ended.total or max(1.0, ended.completed)
        name = next(name for name, task in self.tasks.items() if task == self.now)
        self.bars.update(self.now, description=Text(visible(name)).markup, total=whole, completed=whole)
        self.bars.stop_task(self.now)
