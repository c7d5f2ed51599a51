"""A language model in a folder writes: the same for the same question and seed, and nothing from elsewhere."""

from pathlib import Path

import pytest

from graphprune.errors import SourceError, UsageError
from graphprune.pruning.proposers.folder_writer import open_folder, require_folder
from tests.support.tiny_language import save_model


def test_it_writes_the_same_for_the_same_number_and_seed(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    one, other, third = (open_folder(folder, seed) for seed in (1, 1, 2))
    said = [one("the cat", 12, number) for number in (0, 1)]
    assert said == [other("the cat", 12, number) for number in (0, 1)]
    assert said[1] == other("the cat", 12, 1), "whatever was asked before"
    assert said[0] != said[1] or said[0] != third("the cat", 12, 0)


def test_a_folder_without_a_model_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is no folder of a language model: it has no config"):
        require_folder(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{}")
    require_folder(tmp_path)
    with pytest.raises(SourceError, match="cannot be opened"):
        open_folder(tmp_path, 1)
