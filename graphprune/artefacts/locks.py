"""Locks: files that one run holds at a time, on whichever machine, and that are free once it has ended, however."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def hold(path: Path) -> Iterator[bool]:
    """Hold a lock file, which is made with its folder and removed with it where the folder is empty then.

    Gives False where another process holds it. Raises OSError where it cannot be made, or the file system has no locks.
    """
    file = open_locked(path)
    if file is None:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):  # another run may have begun to wait in it
            path.unlink()
            path.parent.rmdir()
        os.close(file)


def open_locked(path: Path) -> int | None:
    """The lock file, open and locked; None where another process has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # the run before has just removed the folder
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError:
            os.close(file)
            raise
        if is_same(path, file):
            return file
        os.close(file)  # it was removed meanwhile: whoever comes next would not see this lock


def is_same(path: Path, file: int) -> bool:
    """Say whether an open file is still the one at its path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False
