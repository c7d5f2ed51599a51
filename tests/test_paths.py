"""Names that a user gave: those that no file system takes are told in a line."""

from pathlib import Path

import pytest

from graphprune.errors import UsageError
from graphprune.paths import is_file, path_of


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody-at-all/x", "a\0b"])
def test_names_that_can_be_no_path_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no path that can be read") as caught:
        path_of(name)
    assert len(str(caught.value)) < 250


def test_a_path_below_a_file_is_refused_and_a_missing_one_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is no path that can be read"):
        path_of(str(tmp_path / "file" / "x"))
    assert path_of(str(tmp_path / "x")) == tmp_path / "x"
    assert is_file(tmp_path / "file")
    assert not is_file(Path("a" * 5000))
    assert not is_file(Path("a\0b"))
