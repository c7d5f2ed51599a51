"""OUT of a sweep: its points, each written whole as soon as it is there, and the page made of them."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from graphprune.artefacts.export import follow_umask, record_files
from graphprune.artefacts.locks import hold
from graphprune.artefacts.outputs import OWN, RECORD, check_place, is_free, read_object, write_record
from graphprune.artefacts.staging import place_beside
from graphprune.comparison.kept import unwritable, write
from graphprune.errors import UsageError
from graphprune.json_data import Json
from graphprune.rewriting.solved_weights import PLAN
from graphprune.sweeping.page import curve_markdown, curve_page
from graphprune.sweeping.schema import Curve, Point

POINTS, WORK, POINT, DENSE = Path("points"), Path("work"), "point.json", Path("source.json")
REQUEST = OWN / "sweep.json"
_WRITER = "graphprune sweep"


def check_out(out: Path, model: str, request: Mapping[str, Json], restart: bool) -> None:
    """Raise UsageError where OUT can be no folder, or holds something else than this sweep."""
    try:
        if is_free(out, model):
            check_place(out, model)
            return
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; give another -o OUT") from error
    if any((out / part).is_symlink() for part in (POINTS, WORK, OWN)):
        raise UsageError(f"{out} holds links in the place of folders; give another -o OUT")
    known = read_object(out / REQUEST)
    if known.get("written_by") != _WRITER:
        raise UsageError(f"{out} exists and holds no sweep; give another -o OUT")
    changed = sorted(name for name in request if known.get(name) != request[name])
    if changed and not restart:
        raise UsageError(
            f"{out} holds a sweep with another {' and another '.join(changed)}; --restart forgets it, or give another "
            "-o OUT"
        )


@contextlib.contextmanager
def opened(out: Path, model: str, request: Mapping[str, Json], restart: bool) -> Iterator[None]:
    """OUT, this process's alone, with what says that it is a sweep. Raises UsageError, ExportError."""
    check_out(out, model, request, restart)
    with contextlib.ExitStack() as stack:
        try:
            if not stack.enter_context(hold(place_beside(out) / "lock")):
                raise UsageError(f"another run is writing {out}; wait for it, or give another -o OUT")
            (out / OWN).mkdir(parents=True, exist_ok=True)
            if restart:
                forget(out)
            (out / POINTS).mkdir(exist_ok=True)
            write(out / REQUEST, json.dumps({"written_by": _WRITER, **request}, indent=1) + "\n")
        except OSError as error:
            raise unwritable(out, error) from error
        stack.callback(leave_nothing, out)
        try:
            yield
        except OSError as error:
            raise unwritable(out, error) from error


def forget(out: Path) -> None:
    """Remove the points and all that was kept to go on, and nothing else."""
    for folder in (out / POINTS, out / WORK):
        shutil.rmtree(folder, ignore_errors=True)
    (out / DENSE).unlink(missing_ok=True)


def leave_nothing(out: Path) -> None:
    """Remove an OUT in which nothing is kept."""
    if (out / DENSE).exists() or (out / WORK).exists() or any((out / POINTS).iterdir()):
        return
    with contextlib.suppress(OSError):
        for path in (out / REQUEST, out / RECORD):
            path.unlink(missing_ok=True)
        for folder in (out / POINTS, out / OWN, out):
            folder.rmdir()


def read_point(path: Path) -> Point | None:
    """A point that is whole; None where it is not there or is damaged."""
    try:
        return Point.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError):
        return None


def read_points(out: Path) -> dict[str, Point]:
    """All points of OUT that are whole, with a plan, by their targets."""
    folders = (path for path in sorted((out / POINTS).iterdir()) if (path / PLAN).is_file())
    found = (read_point(folder / POINT) for folder in folders)
    return {point.target: point for point in found if point is not None}


def write_point(path: Path, point: Point) -> None:
    write(path, point.model_dump_json(indent=1) + "\n")


def write_curve(out: Path, curve: Curve) -> None:
    """sweep.json, sweep.md and sweep.html, and the list of all files but those that are kept to go on."""
    write(out / "sweep.json", curve.model_dump_json(indent=1) + "\n")
    write(out / "sweep.md", curve_markdown(curve))
    write(out / "sweep.html", curve_page(curve))
    (out / RECORD).unlink(missing_ok=True)
    follow_umask(out)
    write_record(out, record_files(out))
