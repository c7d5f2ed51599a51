"""Running: cells in processes of their own, so many at once; what each came to is kept as soon as it has ended."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from pydantic import ValidationError

from graphprune.comparison.cells import CellPlan, code_hash, recipe_of
from graphprune.comparison.methods import printable
from graphprune.comparison.schema import Cell, Measured
from graphprune.processes import child_command
from graphprune.threads import processors

if TYPE_CHECKING:
    from graphprune.json_data import JsonObject

WORKER = "graphprune.comparison.worker"
_SHORT = 300  # letters of an error


@dataclass(eq=False)
class Running:
    """A process at work on a cell, what it said last, and where its errors go."""

    plan: CellPlan
    process: "subprocess.Popen[str]"
    errors: IO[bytes]
    stage: str = ""
    answer: "JsonObject" = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """How far a run is: the cell that has just ended, if one has, and what those at work are doing."""

    ended: Cell | None
    doing: tuple[str, ...]


def run_cells(plans: Sequence[CellPlan], jobs: int, models: Path | None = None) -> Iterator[Moment]:
    """Run cells, `jobs` at once, and say how it goes; those at work end when this is left, however it is left.

    `models` is the folder in which each keeps its model, None where none is kept.
    """
    waiting, now = list(plans), dict[int, Running]()
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        stack.callback(stop_all, now)
        while waiting or now:
            while waiting and len(now) < jobs:
                started = start(waiting.pop(0), jobs, models)
                assert started.process.stdout is not None
                now[started.process.pid] = started
                selector.register(started.process.stdout, selectors.EVENT_READ, started)
                yield Moment(None, doing(now))
            for key, _ in selector.select(timeout=1.0):
                running: Running = key.data
                if read_line(running):
                    yield Moment(None, doing(now))
                    continue
                selector.unregister(key.fileobj)
                cell = finish(running)
                del now[running.process.pid]
                yield Moment(cell, doing(now))


def doing(now: dict[int, Running]) -> tuple[str, ...]:
    return tuple(f"{each.plan.title}: {each.stage or 'starting'}" for each in now.values())


def start(plan: CellPlan, jobs: int, models: Path | None) -> Running:
    """Begin with a cell; several at once share the processors, unless the user has said how many threads there are."""
    environment = dict(os.environ)
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, processors() // jobs)))
    errors = cast("IO[bytes]", tempfile.TemporaryFile())  # noqa: SIM115  # as long as the process
    process = subprocess.Popen(
        child_command(WORKER),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        encoding="utf-8",
        env=environment,
    )
    assert process.stdin is not None
    keep = models / folder_name(plan) if models is not None and not plan.dense else None
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:  # one that has ended already says why
        stdin.write(work_of(plan, keep))
    return Running(plan, process, errors)


def work_of(plan: CellPlan, keep: Path | None) -> str:
    """What the process reads, see `worker.Work`; names that are no UTF-8 stay what they are."""
    work = {"asked": asdict(plan.asked), "protocol": asdict(plan.protocol), "dense": plan.dense, "keep": keep}
    return json.dumps(work, default=str)


def folder_name(plan: CellPlan) -> str:
    """A name for the model of a cell that any file system takes."""
    words = f"{plan.method}-{plan.target}-seed{plan.seed}-{plan.tokens}"
    return "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in words.replace("%", ""))


def read_line(running: Running) -> bool:
    """Take one line of a process; False where it has said its last."""
    assert running.process.stdout is not None
    line = running.process.stdout.readline()
    if not line:
        return False
    try:
        said = json.loads(line)
        stage, done, total = said.pop("progress", (running.stage, 0, 0))
    except (ValueError, AttributeError, TypeError):
        return True  # a library's word
    running.stage = f"{stage} {done:,} of {total:,}" if total else str(stage)
    running.answer |= said
    return True


def finish(running: Running) -> Cell:
    """The cell of a process that has ended: what it measured, or one line on why it did not."""
    with running.process, running.errors as errors:
        code = running.process.wait()
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace").strip().splitlines()
    measured, error = None, running.answer.get("error")
    try:
        if "measured" in running.answer:
            measured = Measured.model_validate(running.answer["measured"])
    except ValidationError as wrong:
        error = f"the process answered something else than a measurement: {wrong.errors()[0]['msg']}"
    if measured is None and error is None:
        error = explain_end(code, said)
    plan = running.plan
    return Cell(
        schema_version=1,
        key=plan.key,
        method=plan.method,
        target=plan.target,
        seed=plan.seed,
        tokens=plan.tokens,
        recipe=recipe_of(plan),
        code=code_hash(),
        version=own_version(),
        measured=measured,
        error=printable(str(error))[:_SHORT] if measured is None else None,
    )


def own_version() -> str:
    from importlib.metadata import version

    return version("graphprune")


def explain_end(code: int, said: Sequence[str]) -> str:
    """Why a process ended that said nothing."""
    if code == -signal.SIGKILL:
        return "its process was killed, as systems do where memory runs out; lower --samples or --length, or --jobs"
    if code < 0:
        return f"its process ended by {signal.Signals(-code).name}"
    return f"its process ended with code {code}: {said[-1] if said else 'it said nothing'}"


def stop_all(now: dict[int, Running]) -> None:
    """End what is still at work."""
    for running in now.values():
        running.process.kill()
    for running in now.values():
        with running.process, running.errors:  # which waits and closes what it wrote to
            pass
