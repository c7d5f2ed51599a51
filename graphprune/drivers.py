"""Drivers: what this machine has, asked without torch where that is possible."""

import os
import re
from pathlib import Path

from graphprune.errors import UsageError

_NVIDIA = Path("/proc/driver/nvidia/gpus")


def has_gpu() -> bool:
    """Say whether NVIDIA's driver shows a GPU that was not hidden on purpose, whatever the libraries make of it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and _NVIDIA.is_dir() and any(_NVIDIA.iterdir())


def check_device(name: str) -> None:
    """Raise UsageError for what is the name of no kind of device; whether there is one, torch knows."""
    if name == "auto" or re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d{1,3})?", name):
        return
    import torch

    try:
        torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{name[:40]!r} is no device; write auto, cpu, cuda or cuda:1") from error
