"""Scratch folders: gone afterwards, and a full disk is named by the place that is full."""

import errno

import pytest

from graphprune.artefacts.scratch import scratch_folder
from graphprune.errors import ExportError, UsageError


def test_a_full_disk_is_the_one_of_temporary_files() -> None:
    with pytest.raises(ExportError, match=r"cannot write in .*: No space left there; set TMPDIR"), scratch_folder():
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [UsageError("No space left for this"), ValueError("odd")])
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), scratch_folder() as folder:
        raise error
    assert not folder.exists()
