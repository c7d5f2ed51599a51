"""Paths: what is at a name that a user gave, and which files of a folder are only links to somewhere else."""

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


def stays_inside(path: Path, folder: Path) -> bool:
    """Say whether a file lies in its folder, or in the same repository of the Hugging Face hub's cache.

    That cache keeps a revision as links from `models--x--y/snapshots/z` into `models--x--y/blobs`.
    """
    real, home = path.resolve(), folder.resolve()
    if real.is_relative_to(home):
        return True
    cache = next((parent for parent in home.parents if parent.name.startswith("models--")), None)
    return cache is not None and "snapshots" in home.relative_to(cache).parts and real.is_relative_to(cache / "blobs")


def links_outside(folder: Path) -> list[str]:
    """The names in a folder that are links to places outside it, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_symlink() and not stays_inside(path, folder))
