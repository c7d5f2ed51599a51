"""`graphprune init`: a run file that compile takes, with or without a terminal, never over another."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from graphprune.cli.main import run
from graphprune.cli.starting import PLACES
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.resolution import backends_for, resolve_recipe
from graphprune.pipeline.run_file import read_run
from graphprune.registry import names


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_with_yes_it_takes_defaults_and_what_is_given(here: Path, capsys: Any) -> None:
    assert run(["init", "--yes"]) == 0
    plain = {"model": "demo", "target_params": "60%", "method": "taylor", "data": "stdlib", "out": Path("demo-small")}
    assert read_run(here / "run.yaml") == {**plain, "backends": ("huggingface", "onnx")}
    assert "graphprune compile run.yaml" in capsys.readouterr().out
    line = ["init", "other.yml", "--yes", "--model", "./llama", "--target-params", "1B", "--where", "llama.cpp"]
    assert run(line) == 0
    read = read_run(here / "other.yml")
    assert (read["model"], read["out"], read["runtime"]) == ("./llama", Path("llama-small"), "llama.cpp")
    assert "\nfor: llama.cpp\n" in (here / "other.yml").read_text()
    options = CompileOptions(**read)
    assert backends_for(resolve_recipe(options), options.backends) == ("huggingface", "gguf")


def test_a_method_has_what_it_needs_and_no_size_where_there_is_none(here: Path) -> None:
    (here / "mine.yaml").write_text("name: mine\nrecover: {lr: 1e-4}\n")
    assert run(["init", "trained.yaml", "--yes", "--method", "mine.yaml"]) == 0
    assert read_run(here / "trained.yaml")["train_tokens"] == "2M"
    assert run(["init", "zeros.yaml", "--yes", "--method", "sparse"]) == 0
    assert "target_params" not in read_run(here / "zeros.yaml")


def test_it_asks_again_where_an_answer_is_wrong(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("demo\nsmall\n50%\ntailor\nevolve\n\nmoon\nedge\n"))
    assert run(["init"]) == 0
    read = read_run(here / "run.yaml")
    assert (read["target_params"], read["method"], read["data"]) == ("50%", "evolve", "stdlib")
    assert read["backends"] == PLACES["edge"]
    said = capsys.readouterr().err
    assert "did you mean taylor" in said
    assert "--where does not know 'moon'" in said


def test_it_never_writes_over_a_file_unasked(here: Path, capsys: Any) -> None:
    (here / "run.yaml").write_text("mine")
    assert run(["init", "--yes"]) == 2
    assert "run.yaml exists; pass --overwrite" in capsys.readouterr().err
    assert (here / "run.yaml").read_text() == "mine"
    assert run(["init", "--yes", "--overwrite"]) == 0
    assert read_run(here / "run.yaml")["model"] == "demo"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["init"], "pass --yes"),
        (["init", "run.txt", "--yes"], "end it in .yaml"),
        (["init", "none/run.yaml", "--yes"], "name one in a folder that is there"),
        (["init", "--yes", "--where", "edges"], "did you mean edge?"),
        (["init", "--yes", "--method", "evolv"], "did you mean evolve?"),
        (["init", "--yes", "--target-params", "tiny"], "tiny"),
        (["init", "--yes", "--model", ""], "is no model"),
    ],
)
def test_a_wrong_word_is_one_line_and_no_file(here: Path, line: list[str], said: str, capsys: Any) -> None:
    assert run(line) == 2
    assert said in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_every_place_has_backends_that_are_there() -> None:
    assert {spec.partition("{")[0] for specs in PLACES.values() for spec in specs} <= set(names("backends"))
