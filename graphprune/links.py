"""Links: which files of a folder are only links to somewhere else, which nobody gave with the folder."""

from pathlib import Path


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
