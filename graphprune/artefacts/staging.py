"""OUT: written beside its final place and renamed at the end, so that a killed run leaves none."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from graphprune.errors import ExportError, UsageError

_MARK = ".graphprune-"
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@contextlib.contextmanager
def staging(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well, and is removed when it does not.

    What a killed run left behind is cleared first. Raises UsageError where `out` may not be replaced, ExportError where
    nothing can be written there.
    """
    check_output(out, overwrite)
    parent = out.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(out)
        folder = Path(tempfile.mkdtemp(prefix=f"{_MARK}{out.name}-{os.getpid()}-", dir=parent))
    except OSError as error:
        raise ExportError(f"cannot write beside {out}: {error.strerror or error}; give another -o OUT") from error
    try:
        yield folder
        publish(folder, out, overwrite)
    except ExportError as error:  # the user knows OUT, not the folder beside it
        raise ExportError(str(error).replace(str(folder), str(out))) from error
    except SafetensorError as error:
        raise ExportError(f"cannot write {out}: {error}") from error
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise ExportError(f"cannot write {out}: {error.strerror}; free some space or give another -o OUT") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, out: Path, overwrite: bool) -> None:
    """Rename the finished folder to its place; an old one is moved aside first and removed last."""
    check_output(out, overwrite)
    folder.chmod(0o755)
    old = folder.with_name(folder.name + "-old")
    if out.exists():
        out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def clear_leftovers(out: Path) -> None:
    """Remove the unfinished folders of runs that are no longer alive; an old OUT that one of them had moved returns."""
    for path in out.absolute().parent.glob(f"{_MARK}{out.name}-*"):
        process = path.name.removeprefix(f"{_MARK}{out.name}-").split("-")[0]
        if not process.isdigit() or is_alive(int(process)):
            continue
        if path.name.endswith("-old") and not out.exists():
            path.rename(out)
        else:
            shutil.rmtree(path, ignore_errors=True)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def folder_size(folder: Path, pattern: str) -> int:
    """Bytes of the files that match."""
    return sum(path.stat().st_size for path in folder.glob(pattern))


def check_output(out: Path, overwrite: bool) -> None:
    """Raise UsageError where OUT exists and may not be replaced, or holds what graphprune did not write."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out} is not a folder; give another -o OUT")
    if not out.exists() or not any(out.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{out} exists; pass --overwrite to replace it, or give another -o OUT")
    if not (out / "graphprune").is_dir():
        raise UsageError(f"{out} was not written by graphprune and is not overwritten; give another -o OUT")
