"""Nothing that is written says where files lie."""

from dataclasses import replace
from pathlib import Path

import pytest

from graphprune.pipeline.recipes import Change, read_recipe
from graphprune.reporting.privacy import hidden_paths, without_paths
from tests.support.tiny_work import tiny_work

pytestmark = pytest.mark.xdist_group("tiny_llama")


def test_paths_are_said_by_their_last_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "me"))
    (tmp_path / "secret").mkdir()
    recipe = read_recipe("adapt-accel", [Change("recover.data", str(tmp_path / "secret" / "own.txt"), "")])
    work = tiny_work({"data": str(tmp_path / "secret" / "text.txt#train")}, recipe=recipe)
    named = replace(work.source.source, folder=tmp_path / "secret" / "llama")
    work = replace(work, source=replace(work.source, source=named))
    hidden = hidden_paths(work, tmp_path / ".graphprune-out-1-x")
    said = {
        "notes": [f"no words in {tmp_path}/secret/text.txt", f"kept in {tmp_path}/home/me/cache"],
        "method": {"recover": {"data": f"{tmp_path}/secret/own.txt"}},
        "history": (f"recover{{data='{tmp_path}/secret/own.txt'}}",),
        "folder": f"{tmp_path}/secret/llama/LICENSE and {tmp_path}/.graphprune-out-1-x/onnx",
        "seed": 3,
        "nothing": None,
    }
    assert without_paths(said, hidden) == {
        "notes": ["no words in text.txt", "kept in ~/cache"],
        "method": {"recover": {"data": "own.txt"}},
        "history": ("recover{data='own.txt'}",),
        "folder": "llama/LICENSE and OUT/onnx",
        "seed": 3,
        "nothing": None,
    }


def test_names_of_a_hub_and_the_words_of_a_model_stay(tmp_path: Path) -> None:
    work = tiny_work({"model": "org/name", "data": "org/corpus"})
    hidden = hidden_paths(work, tmp_path)
    said = {"id": "org/name", "text": "org/corpus", "samples": [str(tmp_path)]}
    assert without_paths(said, hidden) == said
