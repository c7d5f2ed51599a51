"""Devices: where to compute, what a machine has, and want of memory said in one line."""

import contextlib
from collections.abc import Iterator

import torch

from graphprune.drivers import has_gpu
from graphprune.errors import GraphpruneError, MemoryShortError, UsageError
from graphprune.processes import local_rank, process_count
from graphprune.suggestions import AUTO

_NO_DOUBLES = ("mps",)  # these have no float64, in which sums and least squares are made


def choose_device(name: str | None) -> torch.device:
    """The device of this name, with its number; None and `auto` are the accelerator that torch finds, else the CPU.

    Of several processes on a machine each has an accelerator of its own. Raises UsageError.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None or name == AUTO:
        return torch.device("cpu") if found is None or found.type in _NO_DOUBLES else numbered(found)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{name!r} is no device; write auto, cpu, cuda or cuda:1") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if found is None or found.type != device.type:
        raise UsageError(f"there is no device {name}: {without_gpu()}; leave the option out, or write cpu")
    device, count = numbered(device), torch.accelerator.device_count()
    if device.index >= count:
        known = ", ".join(f"{device.type}:{index}" for index in range(count))
        raise UsageError(f"there is no device {name}; this machine has {known}, and the CPU as cpu")
    return device


def numbered(device: torch.device) -> torch.device:
    """The device with a number: the one given, this process's, or the current one."""
    if device.index is not None:
        return device
    if process_count() > 1:
        return torch.device(device.type, local_rank() % max(1, torch.accelerator.device_count()))
    return torch.device(device.type, torch.accelerator.current_device_index())


def make_current(device: torch.device) -> None:
    """Make an accelerator the one that is meant where a library names none."""
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)


def describe_device(device: torch.device) -> str:
    """The device as a person knows it: `cuda:0 (NVIDIA H100 80GB HBM3)`."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def device_peak(device: torch.device) -> int | None:
    """The most bytes that tensors have taken of a GPU at a time, in this process; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def multiplies_bf16(device: torch.device) -> bool:
    """Say whether a device is a GPU with bfloat16 units."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def unused_gpu(device: torch.device) -> str | None:
    """A note for one who computes on the CPU beside a GPU; None where there is none, or it was hidden on purpose."""
    if device.type != "cpu":
        return None
    if torch.cuda.is_available():
        return f"a GPU is here and not used: {torch.cuda.get_device_name()}; --device auto takes it"
    return f"a GPU is here and not used: {without_gpu()}" if has_gpu() else None


def without_gpu() -> str:
    """Why torch finds no GPU, with what helps."""
    if not has_gpu():
        return "torch finds no GPU on this machine"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA; install a CUDA build of torch"
    return f"torch {torch.__version__} needs a driver for CUDA {torch.version.cuda}; update the driver"


@contextlib.contextmanager
def memory_errors(remedy: str, what: str = "", kind: type[GraphpruneError] = MemoryShortError) -> Iterator[None]:
    """Want of memory as one line that says what to do about it; `what` was too large."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        raise kind(f"out of memory{what}{room(error)}: {remedy}") from error


def is_shortage(error: BaseException) -> bool:
    """Say whether an error is for want of memory, on any device."""
    text = str(error).lower()
    signs = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in text for sign in signs)


def room(error: BaseException) -> str:
    """Where memory ran out and how much there is, where it was a GPU's."""
    if not isinstance(error, torch.OutOfMemoryError) or not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    return f" on {describe_device(numbered(torch.device('cuda')))}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
