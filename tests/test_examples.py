"""The examples run from end to end, on tiny models in the place of the real ones, and are as short as they promise."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest

import graphprune
from tests.support.tiny_encoder import write_encoder
from tests.support.tiny_pairs import write_clip

EXAMPLES = Path(__file__).parent.parent / "examples"
LINES = 40
DEMO = Path(graphprune.__file__).parent / "demo" / "model"


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_a_chat_model_is_cut_written_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out, prompt = tmp_path / "model", tmp_path / "out", "def read_lines(path):"
    shutil.copytree(DEMO, model)
    (model / "chat_template.jinja").write_text("{% for each in messages %}{{ each.content }}{% endfor %}\n")
    asked = ("--target=80%", "--method=magnitude-sp", f"--out={out}", f"--prompt={prompt}")
    run("phone_chat.py", monkeypatch, str(model), *asked)
    said = capsys.readouterr().out
    assert "parameters: 2828736.0 -> 226" in said
    assert len(said[said.index("def read_lines") :]) > len(prompt)
    assert {path.name for path in out.iterdir()} >= {"onnx-int4", "web", "model.safetensors"}
    assert (out / "web" / "onnx" / "model_q4.onnx").is_file()


def test_a_sentence_encoder_is_cut_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_encoder(tmp_path / "encoder")
    text = str(model / "text.txt")
    run("sentence_encoder.py", monkeypatch, str(model), "--target=75%", f"--data={text}", f"--out={tmp_path / 'out'}")
    assert capsys.readouterr().out.count("[") == 2
    assert (tmp_path / "out" / "modules.json").is_file()


def test_a_tower_of_clip_is_cut_and_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_clip(tmp_path / "clip")
    pairs, out = model / "pairs", tmp_path / "out"
    run("clip_tower.py", monkeypatch, str(model), f"--data={pairs}", f"--image={pairs / '0.png'}", f"--out={out}")
    assert "embedding of 0.png (1, 12)" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES
