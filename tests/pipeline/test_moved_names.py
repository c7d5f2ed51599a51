"""Moved names: a path means the same from another folder; what is none stays as it is."""

from pathlib import Path

import pytest

from graphprune.pipeline.moved_names import move_name, move_names, name_from


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("old/taylor", "old/demo", "old/onnx", "old/llama", "old/stdlib", "new"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a b.txt", "c.txt", "mine.yaml"):
        (tmp_path / "old" / name).write_text("words")
    return tmp_path


def test_paths_are_moved_and_words_of_ours_are_not(place: Path) -> None:
    values = {
        "model": "llama",
        "data": "a b.txt#train",
        "held_out": "stdlib",
        "method": "taylor",
        "backends": ("onnx", "x{file=./c.txt,other='../old/c.txt'}"),
        "settings": ("recover.data=c.txt", "recover.lr=1e-3", "x.file=none/c.txt"),
        "seed": 3,
        "field": "c.txt",
    }
    assert move_names(values, place / "old", place / "new") == {
        "model": "../old/llama",
        "data": "../old/a b.txt#train",
        "held_out": "stdlib",
        "method": "taylor",
        "backends": ("onnx", "x{file=../old/c.txt,other='../old/c.txt'}"),
        "settings": ("recover.data=../old/c.txt", "recover.lr=1e-3", "x.file=none/c.txt"),
        "seed": 3,
        "field": "c.txt",
    }
    assert move_names({"model": "demo", "method": "mine.yaml"}, place / "old", place / "new") == {
        "model": "demo",
        "method": "../old/mine.yaml",
    }


def test_there_and_back_is_where_it_was(place: Path) -> None:
    old, new = place / "old", place / "new" / "deep"
    new.mkdir()
    for name in ("llama", "a b.txt", "c.txt"):
        assert move_name(move_name(name, old, new), new, old) == name


def test_a_path_says_no_more_than_it_must(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place / "old"))
    assert name_from(place / "old" / "c.txt", place / "new") == "~/c.txt"
    assert name_from(place / "old" / "c.txt", place / "old" / "llama") == "../c.txt"
    assert name_from(Path("/elsewhere/x"), place) == "/elsewhere/x"


@pytest.mark.parametrize("name", ["org/name", "https://host/v1", "", "a\0b", "x" * 5000])
def test_what_is_no_path_stays(name: str, place: Path) -> None:
    assert move_name(name, place / "old", place / "new") == name
