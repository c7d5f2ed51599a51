"""Paths: what is at a name that a user gave, which may be one that no file system takes."""

from pathlib import Path

from graphprune.errors import UsageError, first_line


def is_file(path: Path) -> bool:
    """Say whether there is a file; a name that no file system takes is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def path_of(name: str) -> Path:
    """The path that a name is. Raises UsageError for a name that none can have."""
    try:
        path = Path(name).expanduser()
        path.stat()
    except FileNotFoundError:
        return path
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name[:60]!r} is no path that can be read: {first_line(error)[:80]}") from error
    return path
