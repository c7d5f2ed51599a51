"""Processes: those that torchrun or accelerate started for one run, and those that this one starts."""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, NoReturn, final

from graphprune.garbage import importing


def process_count() -> int:
    """The number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Say whether this is the process that writes and reports; a run without a launcher has no other."""
    return int(os.environ.get("RANK", "0")) == 0


def local_rank() -> int:
    """Which of the processes on this machine this one is."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def meet() -> None:
    """Return when all processes of the run are here; at once where there is one."""
    if process_count() > 1:
        import torch

        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group()  # with no backend named, the usual one for each kind of device
        torch.distributed.all_reduce(torch.zeros(1))


def leave() -> None:
    """Part from the other processes, where there are any, so that each can end by itself."""
    if process_count() > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


def process_began() -> float:
    """When this process was started, before it imported anything, as time.time() says it; now where no system tells."""
    path = Path("/proc/self/stat")
    if not path.is_file():
        return time.time()
    after = int(path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - after / os.sysconf("SC_CLK_TCK")  # both since the machine's start
    return time.time() - max(0.0, age if after else 0.0)


def child_command(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules in a process of its own, which ends when this one does, however it ends.

    No module is looked for in the folder that the user happens to be in, which may have come from elsewhere (`-P`).
    """
    options = ("-P", "-W", "ignore", "-m", "graphprune.processes")
    return [sys.executable, *options, str(os.getpid()), module, *arguments]


@final
@dataclass(frozen=True, eq=False)
class Child:
    """A process that was started: what it prints, what it complains of once it has ended, and its exit code then."""

    output: Iterable[str]
    errors: IO[str]
    wait: Callable[[], int]


@contextlib.contextmanager
def fresh_process(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[Child]:
    """Run one of our modules in a process that begins anew, with more in its environment."""
    command, pipe, nothing = child_command(module, *arguments), subprocess.PIPE, subprocess.DEVNULL
    given = {**os.environ, **environment}
    with (
        complaints() as errors,
        subprocess.Popen(command, stdin=nothing, stdout=pipe, stderr=errors, text=True, env=given) as process,
    ):
        assert process.stdout is not None
        yield Child(process.stdout, errors, process.wait)


def complaints() -> contextlib.AbstractContextManager[IO[str]]:
    """A file without a name for what a process writes on stderr."""
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


@final
@dataclass(frozen=True, eq=False)
class Spare:
    """A process that was forked from this one when it had imported much and done nothing; it waits to be asked, once.

    It has seen no model and holds none, as one that begins anew, and spares the imports a second time.
    """

    number: int
    request: IO[str]
    output: IO[str]
    errors: IO[str]

    @contextlib.contextmanager
    def ask(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[Child]:
        """Have it run, with more in its environment."""
        with contextlib.suppress(BrokenPipeError), self.request:  # where it has died, its exit code says so
            json.dump({"arguments": list(arguments), "environment": dict(environment)}, self.request)
        yield Child(self.output, self.errors, lambda: os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1]))


@contextlib.contextmanager
def spare_process(entry: Callable[[Sequence[str]], int]) -> Iterator[Spare | None]:
    """Fork a process that will run `entry` with arguments when it is asked to, and ends when this one does.

    Only where this process has done nothing so far that a fork could break: for a caller who has just imported what it
    needs. None where the system cannot fork, has no room to, or where other threads of Python run.
    """
    if sys.platform != "linux" or threading.active_count() > 1:
        yield None
        return
    (asked, request), (output, answer) = os.pipe(), os.pipe()
    with complaints() as errors, open(request, "w", encoding="utf-8") as asking, open(output, encoding="utf-8") as told:
        parent, number = os.getpid(), fork()
        if number == 0:
            os.close(request)
            serve(entry, parent, asked, answer, errors.fileno())
        os.close(asked)
        os.close(answer)
        try:
            yield None if number is None else Spare(number, asking, told, errors)
        finally:
            with contextlib.suppress(BrokenPipeError):
                asking.close()
            if number is not None:
                discard(number)


def fork() -> int | None:
    """The number of a process that is a copy of this one, 0 in the copy; None where there is no room for one."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # what waits in them would be written twice
    try:
        with warnings.catch_warnings(action="ignore"):  # threads of libraries that sleep, which know what a fork is
            return os.fork()
    except OSError:
        return None


def serve(entry: Callable[[Sequence[str]], int], parent: int, asked: int, answer: int, errors: int) -> NoReturn:
    """What a spare process does: nothing until it is asked, then its work, as one that began anew with it."""
    code = 1
    try:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(each) is not signal.SIG_IGN:
                signal.signal(each, signal.SIG_DFL)
        end_with(parent)
        for given, place in ((os.open(os.devnull, os.O_RDONLY), 0), (answer, 1), (errors, 2)):
            os.dup2(given, place)
        os.close(answer)
        sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", encoding="utf-8")
        with open(asked, encoding="utf-8") as request:
            text = request.read()
        if text:
            told = json.loads(text)
            os.environ.update(told["environment"])
            warnings.simplefilter("ignore")
            code = entry(told["arguments"])
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def discard(number: int) -> None:
    """End a process that is not needed any more, and wait for its end, where nobody has."""
    with contextlib.suppress(ChildProcessError, ProcessLookupError):
        if os.waitpid(number, os.WNOHANG)[0] == 0:
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)


def end_with(parent: int) -> None:
    """Have this process killed as soon as its parent is gone."""
    import ctypes  # milliseconds that every command would pay

    control = getattr(ctypes.CDLL(None), "prctl", None)
    parent_death = 1  # PR_SET_PDEATHSIG
    if control is None or control(parent_death, signal.SIGKILL, 0, 0, 0) != 0:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it went before the kernel was asked
        os._exit(1)


def watch(parent: int, pause: float = 0.5) -> None:
    """Look again and again whether the parent is there, where the kernel does not tell."""
    while os.getppid() == parent:
        time.sleep(pause)
    os._exit(1)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    name, sys.argv[:] = sys.argv[2], sys.argv[2:]
    with importing():
        import_module(name)
    runpy.run_module(name, run_name="__main__", alter_sys=True)
