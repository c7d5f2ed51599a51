"""Memory: how much there is, and how much a run may take."""

from pathlib import Path

_INFO = Path("/proc/meminfo")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def free_memory() -> int | None:
    """Bytes that this process may still take, by the system and by the limit of its container; None where unknown."""
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
