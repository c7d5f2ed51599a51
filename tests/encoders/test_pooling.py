"""Pooling as sentence-transformers writes it down, against what its name says."""

import json
from pathlib import Path

import pytest
import torch

from graphprune.encoders.pooling import MODES, longest_text, pool, pooling_of
from graphprune.errors import UsageError

STATES = torch.arange(2 * 4 * 3, dtype=torch.float64).reshape(2, 4, 3)
MASK = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])


def test_each_mode_sees_no_padding() -> None:
    for row, kept in enumerate((slice(0, 3), slice(1, 4))):
        own, count = STATES[row, kept], 3
        places = torch.arange(1.0, 5.0, dtype=torch.float64)[kept]
        wanted = {
            "cls_token": own[0],
            "max_tokens": own.max(0).values,
            "mean_tokens": own.sum(0) / count,
            "mean_sqrt_len_tokens": own.sum(0) / count**0.5,
            "weightedmean_tokens": (own * places[:, None]).sum(0) / places.sum(),
            "lasttoken": own[-1],
        }
        assert wanted.keys() == MODES.keys()
        for mode, expected in wanted.items():
            torch.testing.assert_close(pool(STATES, MASK, (mode,))[row], expected)


def write(folder: Path, **config: object) -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    modules = [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return folder


def test_the_folder_says_how_and_several_modes_stand_behind_each_other(tmp_path: Path) -> None:
    flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}
    modes = pooling_of(write(tmp_path / "old", word_embedding_dimension=3, **flags))
    assert modes == ("cls_token", "max_tokens")
    assert pool(STATES, MASK, modes).shape == (2, 6)
    assert pooling_of(write(tmp_path / "new", pooling_mode="lasttoken")) == ("lasttoken",)
    assert pooling_of(write(tmp_path / "list", pooling_mode=["cls", "mean"])) == ("cls_token", "mean_tokens")


def test_without_such_a_file_it_is_the_mean(tmp_path: Path) -> None:
    assert pooling_of(tmp_path) == pooling_of(None) == ("mean_tokens",)
    assert longest_text(tmp_path) is None
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    assert longest_text(tmp_path) == 256


def test_a_mode_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pools by median; known are cls_token"):
        pooling_of(write(tmp_path / "odd", pooling_mode="median"))
    with pytest.raises(UsageError, match="pools by nothing"):
        pooling_of(write(tmp_path / "none", pooling_mode_cls_token=False))
