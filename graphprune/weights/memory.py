"""Memory: how much there is, and how much a run may take."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_INFO = Path("/proc/meminfo")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def free_memory(device: "torch.device | None" = None) -> int | None:
    """Bytes that this process may still take of a device, the processor by default; None where unknown.

    On the processor by the system and by the limit of its container.
    """
    if device is not None and device.type != "cpu":
        import torch

        return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    free = available()
    for path in _LIMITS:
        text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        if text.isdigit():
            free = int(text) if free is None else min(free, int(text))
    return free


def available() -> int | None:
    if not _INFO.is_file():
        return None
    for line in _INFO.read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
