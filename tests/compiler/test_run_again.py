"""OUT's run.yaml runs again: from any folder, the same weights bit for bit."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from graphprune.cli.main import run
from graphprune.compiler.compile import compile_model
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.run_file import read_run
from tests.support.tiny_source import write_source

pytestmark = pytest.mark.xdist_group("compile")


def weights_of(out: Path) -> str:
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def test_a_run_file_makes_the_same_weights_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    other.mkdir()
    write_source(first / "model")
    (first / "model" / "text.txt").rename(first / "text.txt")
    monkeypatch.chdir(first)
    plain = CompileOptions("model", "75%", Path("out"), data="text.txt", samples=4, length=16, method="adapt-accel")
    steps = ("recover.tokens=64", "recover.rows=2", "recover.length=16", "recover.data=text.txt")
    asked = replace(plain, settings=steps, backends=("huggingface",), seed=3, prune=("mlp", "attention"))
    compile_model(asked)
    told = read_run(first / "out" / "run.yaml", first)
    assert CompileOptions(**told, out=Path("out")) == asked
    monkeypatch.chdir(other)
    assert run(["compile", str(first / "out" / "run.yaml"), "-o", "again"]) == 0
    assert weights_of(other / "again") == weights_of(first / "out")
    assert read_run(other / "again" / "run.yaml", first) == told
    assert run(["compile", str(first / "out" / "run.yaml"), "-o", "less", "--seed", "4", "--target-params", "60%"]) == 0
    said = capsys.readouterr().err
    assert "note: seed: 4, as the command line says" in said
    assert "note: target-params: 60%, as the command line says" in said
    assert weights_of(other / "less") != weights_of(first / "out")


def test_a_wrong_run_file_ends_before_any_model_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    for text, said in (
        ("model: none/at/all\ntarget-parms: 60%", "did you mean target-params?"),
        ("model: none/at/all\nsamples: many", "samples is 'many'"),
        ("target-params: 60%", "names no model"),
    ):
        path.write_text(text)
        assert run(["compile", str(path), "-o", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
