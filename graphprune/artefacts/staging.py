"""OUT: written beside its final place and renamed at the end, so that a killed run leaves none."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from graphprune.artefacts.locks import hold
from graphprune.artefacts.outputs import check_output
from graphprune.errors import ExportError, InterruptedRunError, UsageError

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_OCCUPIED = {errno.EBUSY, errno.EXDEV, errno.ENOTEMPTY, errno.ENAMETOOLONG}
_NEW, _OLD, _LOCK = "new", "old", "lock"
_LONGEST_NAME = 200  # of 255 bytes that a file system takes


@contextlib.contextmanager
def staging(out: Path, overwrite: bool, model: str | None = None) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well, and is removed when it does not.

    What a killed run for the same `out` left behind is cleared first. Raises UsageError where `out` may not be replaced
    or another run, on this machine or another, is writing it; ExportError where nothing can be written there. `model`
    is what the run reads, which is never replaced.
    """
    check_output(out, overwrite, model)
    with telling_of(out), contextlib.ExitStack() as stack:
        folder = begin(out, stack)
        try:
            yield folder
            publish(folder, out, overwrite, model)
        except ExportError as error:  # the user knows OUT, not the folder beside it
            raise ExportError(str(error).replace(str(folder), str(out))) from error
        except safetensors_error() as error:
            raise ExportError(f"cannot write {out}: {error}") from error
        except OSError as error:
            raise explained(error, out) from error


@contextlib.contextmanager
def telling_of(out: Path | None) -> Iterator[None]:
    """Say of a block that is stopped when `out` has its new content that it is whole: a user would begin again.

    It is seen by the folder itself, since a stop can come between any two steps of the program.
    """
    # What a killed run had moved aside comes back, and is no new content.
    before = identity(out) or (identity(place_beside(out) / _OLD) if out is not None else None)
    try:
        yield
    except KeyboardInterrupt as error:
        if identity(out) in (None, before):
            raise
        raise InterruptedRunError(f"interrupted, but {out} was complete before: it is new and whole") from error


def identity(folder: Path | None) -> tuple[int, int] | None:
    """What tells a folder from one that takes its place; None where there is none."""
    if folder is None or not folder.is_dir():
        return None
    found = folder.stat()
    return found.st_dev, found.st_ino


def begin(out: Path, stack: contextlib.ExitStack) -> Path:
    """The folder to write in, which the stack removes. Raises UsageError, ExportError."""
    place = place_beside(out)
    try:
        if not stack.enter_context(hold(place / _LOCK)):
            raise UsageError(f"another run is writing {out}; wait for it, or give another -o OUT")
        clear_leftovers(out)
        folder = place / _NEW
        folder.mkdir()
    except OSError as error:
        raise ExportError(f"cannot write beside {out}: {error.strerror or error}; give another -o OUT") from error
    stack.callback(clear_in_any_case, out)
    return folder


def clear_in_any_case(out: Path) -> None:
    """Clear what is left, and only then be stopped."""
    try:
        clear_leftovers(out)
    except KeyboardInterrupt:
        clear_leftovers(out)
        raise


def explained(error: OSError, out: Path) -> OSError | ExportError:
    if error.errno in _UNWRITABLE:
        return ExportError(f"cannot write {out}: {error.strerror}; free some space or give another -o OUT")
    return (
        ExportError(f"cannot write {out}: {error.strerror}; give another -o OUT") if error.errno in _OCCUPIED else error
    )


def safetensors_error() -> type[Exception]:
    """What safetensors raises, looked up when something was raised: commands that write nothing need not import it."""
    from safetensors import SafetensorError

    return SafetensorError


def place_beside(out: Path) -> Path:
    """The one folder in which runs for this `out` work: no other `out` has the same."""
    import hashlib

    path = Path(os.path.abspath(out))
    long = len(os.fsencode(path.name)) > _LONGEST_NAME
    name = hashlib.blake2b(os.fsencode(path.name), digest_size=16).hexdigest() if long else path.name
    return path.with_name(f".graphprune-{name}")


def publish(folder: Path, out: Path, overwrite: bool, model: str | None = None) -> None:
    """Put the finished folder in its place, in one step where the system can; the old one is removed last."""
    check_output(out, overwrite, model)
    if not out.exists() or not any(out.iterdir()):
        folder.rename(out)
        return
    if exchange(folder, out):
        return
    old = folder.with_name(_OLD)
    out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        old.rename(out)
        raise


def exchange(one: Path, other: Path) -> bool:
    """Have two folders change places in one step, so that there is no moment without either; False where none can."""
    import ctypes

    here, exchanging = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchanging) == 0


def clear_leftovers(out: Path) -> None:
    """Remove what a run for `out` left, which holds the lock no more; an old OUT that it had moved aside returns."""
    place = place_beside(out)
    old = place / _OLD
    if old.is_dir() and not out.exists():
        old.rename(out)
    for path in (place / _NEW, old):
        shutil.rmtree(path, ignore_errors=True)


def folder_size(folder: Path, pattern: str) -> int:
    """Bytes of the files that match."""
    return sum(path.stat().st_size for path in folder.glob(pattern))
