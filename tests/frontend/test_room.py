"""Room: which models stay in their file, and what is asked for in vain."""

from pathlib import Path

import pytest
import torch

from graphprune.errors import UsageError
from graphprune.frontend import room
from graphprune.frontend.room import (
    describe_room,
    is_checked_in_file,
    largest_block,
    read_room,
    require_room,
    settled,
    stays_in_file,
    wide_bytes,
)
from graphprune.frontend.source import capture
from graphprune.weights.stored import any_stored
from tests.support import zoo

pytestmark = pytest.mark.xdist_group("llama")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    zoo.build("llama").to(torch.bfloat16).save_pretrained(made)
    return made


def test_bytes_are_those_of_float32(folder: Path) -> None:
    assert wide_bytes(folder) == 4 * capture(folder).parameter_count()


def test_a_model_stays_in_its_file_where_three_of_it_do_not_fit(folder: Path) -> None:
    needed = 3 * wide_bytes(folder) + (1 << 29)
    assert not stays_in_file(folder, str(needed))
    assert stays_in_file(folder, str(needed - 1))
    assert not is_checked_in_file(folder, str(needed - 1))
    assert "stay in their file" in describe_room(folder, "1GB")


def test_less_than_a_layer_is_refused_with_the_least_that_works(folder: Path) -> None:
    block = largest_block(folder)
    assert wide_bytes(folder) / 8 < block < wide_bytes(folder)
    require_room(folder, str(block))
    with pytest.raises(UsageError, match=r"^--memory 99 is too little .* so that 512\.\d\d MiB are the least to ask"):
        require_room(folder, "99")
    assert "less than the libraries and its largest layer take, 512" in describe_room(folder, "1MB")
    assert "less than" not in describe_room(folder, "1GB")


def test_less_than_a_layer_that_is_free_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_memory", lambda *_: 1000)
    with pytest.raises(UsageError, match="1,000 bytes, which are free, are too little"):
        require_room(folder, None)


def test_memory_is_bytes_or_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_memory", lambda *_: 1000)
    assert read_room(None) == 1000
    assert read_room("50%") == 500
    assert read_room("2GB") == 2_000_000_000
    monkeypatch.setattr(room, "free_memory", lambda *_: None)
    assert read_room(None) is None
    with pytest.raises(UsageError, match="does not tell what is free"):
        read_room("50%")


def test_a_result_that_fits_gets_real_weights(folder: Path) -> None:
    graph = capture(folder, dtype=torch.float32, stored=True)
    real = settled(graph, "100GB")
    assert not any_stored(real.tensors().values())
    assert real.parameters().keys() == graph.parameters().keys()
    assert settled(graph, "1MB") is graph
    assert settled(real, "1MB") is real
