"""Outputs: which folder may be replaced: one that an earlier run wrote, with nothing else in it."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from graphprune.errors import UsageError
from graphprune.json_data import Json

OWN = Path("graphprune")
REPORT, RECORD = OWN / "report.json", OWN / "files.json"
_LATER = {path.as_posix() for path in (REPORT, RECORD, OWN / "report.html")}  # than the list of files
_OF_REPORTS = {"schema_version", "source", "target", "parity", "files"}
_OF_RECORDS = {"written_by", "files"}


def check_output(out: Path, overwrite: bool, model: str | None = None) -> None:
    """Raise UsageError where OUT exists and may not be replaced, or holds what graphprune did not write.

    `model` is what the run reads; neither it nor what holds it is replaced.
    """
    try:
        if is_free(out, model):
            return
    except OSError as error:  # a name too long, a folder that may not be read
        raise UsageError(f"cannot write {out}: {error.strerror}; give another -o OUT") from error
    if not overwrite:
        raise UsageError(f"{out} exists; pass --overwrite to replace it, or give another -o OUT")
    written = files_written(out)
    if written is None:
        raise UsageError(f"{out} was not written by graphprune and is not overwritten; give another -o OUT")
    other = next(foreign_files(out, written), None)
    if other is not None:
        raise UsageError(f"{out} also holds {other}, which graphprune did not write; move it, or give another -o OUT")


def is_free(out: Path, model: str | None) -> bool:
    """Say whether there is nothing, or an empty folder. Raises UsageError for what is never replaced."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out} is not a folder; give another -o OUT")
    if not out.exists():
        return True
    check_place(out, model)
    return not any(out.iterdir())


def check_place(out: Path, model: str | None) -> None:
    """Raise UsageError for a folder that is, or holds, something that no run may replace."""
    real = out.resolve()
    for kept, what in kept_folders(model):
        if kept.resolve().is_relative_to(real):
            raise UsageError(f"{out} is or holds {what}, which is not overwritten; give another -o OUT")


def kept_folders(model: str | None) -> Iterator[tuple[Path, str]]:
    if model is not None:
        yield Path(model).expanduser(), "the model"
    with contextlib.suppress(OSError):
        yield Path.cwd(), "the folder that you are in"
    with contextlib.suppress(RuntimeError):
        yield Path.home(), "your home folder"


def files_written(out: Path) -> set[str] | None:
    """The files that the run wrote which wrote this folder, by its report or record; None where no run of ours did."""
    for name, needed in ((REPORT, _OF_REPORTS), (RECORD, _OF_RECORDS)):
        found = read_object(out / name)
        files = found.get("files")
        if needed <= found.keys() and isinstance(files, list):
            return {str(entry["path"]) for entry in files if isinstance(entry, dict) and "path" in entry} | _LATER
    return None


def read_object(path: Path) -> Mapping[str, Json]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def foreign_files(out: Path, written: set[str]) -> Iterator[str]:
    """What is in a folder and no run wrote, sorted; folders count where they hold something."""
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if name not in written and (path.is_symlink() or not path.is_dir()):
            yield name


def write_record(out: Path, files: list[dict[str, Json]]) -> None:
    """Say which files were written, where there is no report that says so."""
    (out / RECORD).parent.mkdir(exist_ok=True)
    text = json.dumps({"written_by": "graphprune", "files": files}, indent=1)
    (out / RECORD).write_text(f"{text}\n", encoding="utf-8")
