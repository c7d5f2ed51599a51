"""`graphprune eval`: tables and JSON, two models side by side, every face of an OUT, one line for what is wrong."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from graphprune.backends.onnx.backend import Onnx
from graphprune.cli import main
from graphprune.cli.evaluation import difference, short_labels
from graphprune.evaluation.scorecard import Scorecard
from graphprune.frontend.source import capture
from tests.support.tiny_language import save_model

Capture = pytest.CaptureFixture[str]
PAIRS = [("the cat runs", "the cat run"), ("dogs run", "dogs runs"), ("She sees a dog", "She see a dog")]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as compile leaves it, as far as evaluation looks: a checkpoint and an ONNX model."""
    path = save_model(tmp_path_factory.mktemp("eval") / "small")
    Onnx().export(capture(path), path)
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("eval") / "large", seed=1)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the cat sees the dog . who runs ? a small dog runs in the red house .\n" * 10)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"sentence_good": good, "sentence_bad": bad} for good, bad in PAIRS]
    (folder / "agreement.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def run_json(line: list[str], capsys: Capture) -> list[dict[str, Any]]:
    assert main.run([*line, "--json"]) == 0
    cards: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["scorecards"]
    return cards


def test_every_face_gives_the_same_numbers(out: Path, text: Path, data: Path, capsys: Capture) -> None:
    line = ["eval", str(out), "--backend", "all", "--data", str(text), "--eval-data", str(data), "--stride", "8"]
    cards = run_json(line, capsys)
    assert [card["face"] for card in cards] == ["graph", "checkpoint", "onnx"]
    first = cards[0]
    assert (first["text"]["window"], first["text"]["stride"], first["text"]["bos"]) == (40, 8, "<s>")
    assert first["text"]["bytes"] == text.stat().st_size
    assert [score["task"] for score in first["tasks"]] == ["blimp_local", "blimp_agreement_local"]
    for card in cards[1:]:
        for name in ("nats_per_token", "perplexity", "bits_per_byte"):
            assert card["text"][name] == pytest.approx(first["text"][name], rel=1e-4)
        assert [score["value"] for score in card["tasks"]] == [score["value"] for score in first["tasks"]]


def test_two_models_stand_side_by_side(out: Path, other: Path, text: Path, data: Path, capsys: Capture) -> None:
    line = ["eval", str(out), "--against", str(other), "--data", str(text), "--tasks", "blimp_local"]
    assert main.run([*line, "--eval-data", str(data), "--window", "20", "--no-bos", "--limit", "2"]) == 0
    printed = capsys.readouterr()
    assert "small checkpoint" in printed.out
    assert "large checkpoint" in printed.out
    assert "difference" in printed.out
    rows = {line.split("  ")[0]: line.split() for line in printed.out.splitlines() if line.strip()}
    assert rows["window"][-2:] == ["20", "20"]
    assert "the token before" in printed.out
    nats = [float(value) for value in rows["bits per byte"][-3:]]
    assert nats[2] == pytest.approx(nats[0] - nats[1], abs=2e-4)
    assert nats[2] != 0
    assert rows["blimp_local"][1:4] == ["acc", "0", "2"]
    assert "loading" in printed.err


def test_tasks_alone_read_no_text(out: Path, data: Path, capsys: Capture) -> None:
    (card,) = run_json(["eval", str(out), "--eval-data", str(data), "--tasks", "blimp_agreement_local"], capsys)
    assert card["text"] is None
    assert [score["examples"] for score in card["tasks"]] == [3]


def test_the_dtype_is_asked_for_and_shown(out: Path, text: Path, capsys: Capture) -> None:
    line = ["eval", str(out), "--data", str(text), "--bytes", "200"]
    (narrow,), (wide,) = run_json([*line, "--dtype", "bfloat16"], capsys), run_json(line, capsys)
    assert (narrow["dtype"], wide["dtype"], wide["text"]["bytes"]) == ("bfloat16", "float32", 200)
    assert narrow["text"]["nats_per_token"] == pytest.approx(wide["text"]["nats_per_token"], rel=0.05)


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("OUT --data TEXT --window 41", 2, "windows of 41 tokens are longer than the model's context of 40"),
        ("OUT --data TEXT --window 10 --stride 10", 2, "a stride of 10 does not fit windows of 10"),
        ("OUT --data TEXT --bytes 3", 1, "holds 1 tokens, fewer than one window of 2; give more text"),
        ("OUT --data ./none.txt", 1, "no text file at './none.txt'"),
        ("OUT --eval-data ./none", 2, "no folder of evaluation data at none"),
        ("OUT --tasks blimp_local", 2, "blimp_local reads local files: pass --eval-data"),
        ("OUT --tasks blimp_locl --eval-data DATA", 2, "lm-eval knows no task 'blimp_locl'; did you mean blimp_local"),
        ("OUT --tasks piqa_local --eval-data DATA", 1, "piqa_local needs piqa.validation.jsonl below the folder"),
        ("OTHER --backend onnx --data TEXT", 2, "holds no ONNX model; compile with --backends huggingface,onnx"),
        ("./none --data TEXT", 1, "no model folder at none"),
        ("OUT --against ./none --data TEXT", 1, "no model folder at none"),
        ("OUT --backend graphs", 2, "See graphprune eval --help"),
    ],
)
def test_what_is_wrong_is_one_line(
    line: str, code: int, message: str, out: Path, other: Path, text: Path, data: Path, capsys: Capture
) -> None:
    places = {"OUT": out, "OTHER": other, "TEXT": text, "DATA": data}
    assert main.run(["eval", *(str(places.get(word, word)) for word in line.split())]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


def test_lm_eval_is_asked_for_where_it_is_missing(
    out: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "lm_eval" else found(name))
    assert main.run(["eval", str(out), "--eval-data", str(data)]) == 2
    assert "pip install graphprune[eval]" in capsys.readouterr().err


def test_labels_are_short_where_they_can_be() -> None:
    cards = [Scorecard(name, "graph", "float32", None, ()) for name in ("runs/a", "runs/b")]
    assert short_labels(cards) == ["a graph", "b graph"]
    cards = [Scorecard(name, "graph", "float32", None, ()) for name in ("runs/a", "old/a")]
    assert short_labels(cards) == ["runs/a graph", "old/a graph"]
    assert difference([1.0, 0.25]) == ("+0.7500",)
    assert difference([1.0]) == difference([1.0, 2.0, 3.0]) == ()
