"""Python source that every machine has: the standard library, split by file into train and held-out."""

import os
from pathlib import Path

LIBRARY = ("stdlib", "stdlib:held-out")  # how it is named as a source
# Test suites, bundled wheels and generated tables would dominate the text without being prose-like Python.
_SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "site-packages",
    "__pycache__",
    "lib2to3",
    "ensurepip",
    "pydoc_data",
    "encodings",
}
_HELD_OUT_SHARE = 16  # one file in sixteen


def source_files() -> list[Path]:
    """Return the standard library's modules, sorted by path, without tests and generated tables."""
    import sysconfig  # with hashlib, milliseconds that every command would pay for the names above

    found: list[Path] = []
    for folder, names, files in os.walk(sysconfig.get_path("stdlib")):
        names[:] = [name for name in names if name not in _SKIPPED]
        found += [Path(folder) / name for name in files if name.endswith(".py")]
    return sorted(found)


def is_held_out(path: Path) -> bool:
    """Say whether a module belongs to the held-out split: decided by its name alone, on every machine alike."""
    import hashlib

    return hashlib.sha256(path.name.encode()).digest()[0] % _HELD_OUT_SHARE == 0


def read_split(held_out: bool) -> list[str]:
    """Return the texts of one split, one string a file."""
    chosen = (path for path in source_files() if is_held_out(path) == held_out)
    return [path.read_text(encoding="utf-8", errors="replace") for path in chosen]
