"""Drivers: what this machine has, asked without torch."""

import os
from pathlib import Path

_NVIDIA = Path("/proc/driver/nvidia/gpus")


def has_gpu() -> bool:
    """Say whether NVIDIA's driver shows a GPU that was not hidden on purpose, whatever the libraries make of it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and _NVIDIA.is_dir() and any(_NVIDIA.iterdir())
