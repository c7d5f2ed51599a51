"""OUT of a comparison: its cells, each written whole as soon as it is there, and the tables made of them."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from graphprune.artefacts.export import follow_umask, record_files
from graphprune.artefacts.locks import hold
from graphprune.artefacts.outputs import OWN, RECORD, is_free, read_object, write_record
from graphprune.artefacts.staging import place_beside
from graphprune.comparison.cells import CellPlan, hash_of
from graphprune.comparison.options import CompareOptions
from graphprune.comparison.page import compare_markdown, compare_page
from graphprune.comparison.schema import Cell, Comparison
from graphprune.compiler.preflight import check_place
from graphprune.errors import ExportError, UsageError

CELLS, MODELS = Path("cells"), Path("models")
REQUEST = OWN / "comparison.json"
TABLES = ("compare.json", "compare.md", "compare.html")


def request_of(plans: Sequence[CellPlan]) -> dict[str, str]:
    """What tells one comparison from another: its rows by name, and all that they depend on."""
    rows: list[dict[str, str]] = [{"title": plan.title, "key": plan.key} for plan in plans]
    return {"written_by": "graphprune compare", "request": hash_of({"rows": [json.dumps(row) for row in rows]})}


def check_out(options: CompareOptions, plans: Sequence[CellPlan]) -> None:
    """Raise UsageError where OUT can be no folder, or holds something else than this comparison.

    Another comparison is replaced with --overwrite, its cells used where they are the same; --restart forgets them too.
    """
    out = options.out
    assert out is not None
    if is_free_here(out, options.model):
        check_place(out, False, options.model)
        return
    if (out / CELLS).is_symlink() or (out / MODELS).is_symlink():
        raise UsageError(f"{out} holds links in the place of folders; give another -o OUT")
    known = read_object(out / REQUEST)
    if known.get("written_by") != request_of(plans)["written_by"]:
        raise UsageError(f"{out} exists and holds no comparison; give another -o OUT")
    if known != request_of(plans) and not (options.overwrite or options.restart):
        raise UsageError(
            f"{out} holds another comparison (methods, sizes, texts, options or versions differ); --overwrite replaces "
            "its tables and uses its cells where they are the same, or give another -o OUT"
        )


def is_free_here(out: Path, model: str) -> bool:
    try:
        return is_free(out, model)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; give another -o OUT") from error


@contextlib.contextmanager
def opened(options: CompareOptions, plans: Sequence[CellPlan]) -> Iterator[Path]:
    """OUT, this process's alone, with what says that it is a comparison. Raises UsageError, ExportError."""
    out = options.out
    assert out is not None
    check_out(options, plans)
    with contextlib.ExitStack() as stack:
        try:
            if not stack.enter_context(hold(place_beside(out) / "lock")):
                raise UsageError(f"another run is writing {out}; wait for it, or give another -o OUT")
            (out / CELLS).mkdir(parents=True, exist_ok=True)
            (out / OWN).mkdir(exist_ok=True)
            if options.restart:
                forget(out)
            write(out / REQUEST, json.dumps(request_of(plans)) + "\n")
            write_record(out, record_files(out))
        except OSError as error:
            raise unwritable(out, error) from error
        stack.callback(leave_nothing, out)
        yield out


def leave_nothing(out: Path) -> None:
    """Remove an OUT in which no cell is kept."""
    if any((out / CELLS).iterdir()):
        return
    with contextlib.suppress(OSError):
        for path in (out / REQUEST, out / RECORD):
            path.unlink(missing_ok=True)
        for folder in (out / CELLS, out / OWN, out):
            folder.rmdir()


def unwritable(out: Path, error: OSError) -> ExportError:
    return ExportError(f"cannot write {out}: {error.strerror or error}; free some space or give another -o OUT")


def forget(out: Path) -> None:
    """Remove the cells and models of earlier runs, and nothing else."""
    for path in (out / CELLS).glob("*.json"):
        path.unlink()
    shutil.rmtree(out / MODELS, ignore_errors=True)


def read_cell(out: Path, plan: CellPlan) -> Cell | None:
    """What is kept of a cell; None where it is not there, failed, or is damaged."""
    path = out / CELLS / f"{plan.key}.json"
    try:
        found = Cell.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError):
        return None
    if found.key != plan.key or found.measured is None:
        return None
    named = {"method": plan.method, "target": plan.target, "seed": plan.seed, "tokens": plan.tokens}
    return found.model_copy(update=named)  # it may have been measured under another name


def write_cell(out: Path, cell: Cell) -> None:
    """Keep a cell: its file is whole or not there. Raises ExportError."""
    try:
        write(out / CELLS / f"{cell.key}.json", cell.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise unwritable(out, error) from error


def write_tables(out: Path, comparison: Comparison) -> None:
    """compare.json, compare.md and compare.html, and the list of all files. Raises ExportError."""
    texts = (comparison.model_dump_json(indent=1) + "\n", compare_markdown(comparison), compare_page(comparison))
    try:
        for name, text in zip(TABLES, texts, strict=True):
            write(out / name, text)
        (out / RECORD).unlink(missing_ok=True)
        follow_umask(out)
        write_record(out, record_files(out))
    except OSError as error:
        raise unwritable(out, error) from error


def write(path: Path, text: str) -> None:
    """Write a file that is either whole or as it was."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
