"""The processes that torchrun or accelerate started for one run: how many, who this is, where they meet."""

import os


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
