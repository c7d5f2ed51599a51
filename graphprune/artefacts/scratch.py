"""Scratch: a folder for what is measured and gone again, and whose disk it is that is full."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from graphprune.errors import ExportError, ForeignError, GraphpruneError, foreign_code

_FULL = "No space left"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder in the system's place for temporary files, removed at the end. Raises ExportError where that is full."""
    with tempfile.TemporaryDirectory(prefix="graphprune-", ignore_cleanup_errors=True) as name:
        try:
            with foreign_code():
                yield Path(name)
        except ForeignError as failure:
            if _FULL in str(failure.error) and not isinstance(failure.error, GraphpruneError):
                place = tempfile.gettempdir()
                raise ExportError(
                    f"cannot write in {place}: {_FULL} there; set TMPDIR to a folder with room"
                ) from failure
            raise failure.error from failure.error.__cause__
