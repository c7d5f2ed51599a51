"""Processes: those that torchrun or accelerate started for one run, and those that this one starts."""

import ctypes
import os
import runpy
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

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


def end_with(parent: int) -> None:
    """Have this process killed as soon as its parent is gone."""
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
