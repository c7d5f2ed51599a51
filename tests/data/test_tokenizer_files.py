"""A folder without a tokenizer: the message says what works without one."""

from pathlib import Path

import pytest

from graphprune.data.tokenizer_files import has_tokenizer, require_tokenizer
from graphprune.errors import DataError


def test_a_folder_without_one_says_what_works(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no tokenizer; copy tokenizer\.json .*without one, inspect, .* work"):
        require_tokenizer(tmp_path)
    (tmp_path / "vocab.json").touch()
    require_tokenizer(tmp_path)
    assert has_tokenizer(tmp_path)
