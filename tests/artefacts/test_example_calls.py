"""Example calls: Python for each kind of model, of known names and numbers alone; and it runs as a card shows it."""

import ast
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from graphprune.analysis.analyse import analyze
from graphprune.artefacts.check_process import check_all, read_reference
from graphprune.artefacts.checks.call_check import NAME, check_calls, run_call
from graphprune.artefacts.example_calls import (
    TRUST,
    Written,
    describe,
    example_calls,
    has_known_modules,
    loader_of,
    model_call,
)
from graphprune.artefacts.parity import save_reference
from graphprune.artefacts.source_tokens import NAME as TOKENIZER
from graphprune.artefacts.source_tokens import TEXTS, check_tokenizer, encodings
from graphprune.backends.huggingface.backend import HuggingFace
from graphprune.frontend.source import capture
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from tests.support.tiny_classifier import LABELS, write_classifier

IDS = torch.zeros(2, 7, dtype=torch.long)
TEXT = Written("AutoModel", "encoder", {"input_ids": IDS, "attention_mask": IDS}, tokenizer=True, masks=True)
IMAGES = {"pixel_values": torch.zeros(2, 3, 16, 16)}
SOUND = {"input_features": torch.zeros(2, 8, 40), "decoder_input_ids": IDS}


def written(loader: str, **fields: Any) -> Written:
    return replace(TEXT, loader=loader, **fields)


@pytest.mark.parametrize(
    ("model", "lines"),
    [
        (written("AutoModelForSequenceClassification"), ['model = pipeline("text-classification", ".")']),
        (
            written("AutoModelForTokenClassification", trust=TRUST),
            ['pipeline("token-classification", ".", trust_remote_code=True)'],
        ),
        (written("AutoModelForMaskedLM"), ['pipeline("fill-mask", ".")', "model.tokenizer.mask_token"]),
        (written("AutoModelForMaskedLM", masks=False), ["AutoModelForMaskedLM.from_pretrained", "torch.ones(2, 7"]),
        (written("AutoModel"), ['pipeline("feature-extraction", ".")']),
        (written("AutoModel", tokenizer=False), ["output = model(", "input_ids=torch.zeros(2, 7, dtype=torch.int64)"]),
        (written("AutoModelForQuestionAnswering"), ["output.start_logits.argmax()", "AutoTokenizer.from_pretrained"]),
        (written("AutoModelForMultipleChoice"), ["output = model("]),
        (
            written("AutoModelForCausalLM", kind="decoder", inputs={"input_ids": IDS[:1]}, context=11),
            ["model.generate(ids, max_new_tokens=3)", "tokenizer.decode(made[0], skip_special_tokens=True)"],
        ),
        (
            written("AutoModelForCausalLM", kind="decoder", inputs={"input_ids": IDS}),  # two streams of codes
            ["made = model.generate(", "input_ids=torch.zeros(2, 7", "max_new_tokens=8,"],
        ),
        (written("AutoModelForSeq2SeqLM", kind="seq2seq"), ["model.generate(ids, max_new_tokens=16)"]),
        (
            written("AutoModelForSpeechSeq2Seq", kind="seq2seq", inputs=SOUND),
            ["made = model.generate(", "input_features=torch.zeros(2, 8, 40, dtype=model.dtype)"],
        ),
        (
            written("AutoModelForImageClassification", inputs=IMAGES, processor=True),
            ["from PIL import Image", 'pipeline("image-classification", ".")'],
        ),
        (
            written("AutoModelForImageClassification", inputs=IMAGES),
            ["pixel_values=torch.zeros(2, 3, 16, 16, dtype=model.dtype)"],
        ),
        (
            written("AutoModelForAudioClassification", inputs={"input_values": torch.zeros(2, 9)}, processor=True),
            ["import numpy", 'pipeline("audio-classification", ".")'],
        ),
    ],
)  # fmt: skip
def test_every_kind_has_its_call(model: Written, lines: list[str]) -> None:
    call = model_call(model)
    ast.parse(call)
    assert [line for line in lines if line not in call] == []
    assert ("trust_remote_code" in call) == bool(model.trust)


@pytest.mark.parametrize(
    ("config", "loader"),
    [
        ({"architectures": ["BertForQuestionAnswering"]}, "AutoModelForQuestionAnswering"),
        ({"architectures": ["MarianMTModel"]}, "AutoModelForSeq2SeqLM"),
        ({"auto_map": {"AutoConfig": "x.Y", "AutoModelForCTC": "x.Z"}, "architectures": ["Z"]}, "AutoModelForCTC"),
        ({"auto_map": {"AutoConfig": "x.Y"}}, "AutoModel"),
        ({"architectures": ["CLIPTextModelWithProjection"]}, "CLIPTextModelWithProjection"),
        ({"architectures": ["import os"]}, "AutoModel"),
        ({"architectures": ["pipeline"]}, "AutoModel"),
        ({"architectures": [None]}, "AutoModel"),
        ({"architectures": 3}, "AutoModel"),
        ({}, "AutoModel"),
    ],
)
def test_the_loader_is_a_name_of_transformers(config: Mapping[str, object], loader: str) -> None:
    assert loader_of(config) == loader
    assert hasattr(transformers, loader)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What compile writes of a classifier: one MLP is narrower, so the form is the generic one."""
    source, folder = write_classifier(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("out")
    graph = capture(source)
    channels = next(group for group in analyze(graph).prunable() if group.kind == "mlp")
    cut = apply(graph, Plan({channels.id: tuple(range(20))}))
    HuggingFace().export(cut, folder)
    save_reference(cut, folder)
    return folder


def calls_of(folder: Path) -> tuple[str, ...]:
    return example_calls(folder, *read_reference(folder))


def test_a_card_shows_what_runs_in_a_process_that_knows_nothing_of_graphprune(out: Path) -> None:
    (call,) = calls_of(out)
    assert call.splitlines()[2] == 'model = pipeline("text-classification", ".", trust_remote_code=True)'
    options: dict[str, Any] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "cwd": out}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", call], check=False, **options)
    assert done.returncode == 0, done.stderr[-500:]
    assert ast.literal_eval(done.stdout)[0]["label"] in LABELS


def test_the_check_runs_the_call_and_nothing_of_the_folder(out: Path) -> None:
    trap = out / "custom_generate"
    trap.mkdir(exist_ok=True)
    (trap / "generate.py").write_text(f"open({str(out / 'ran')!r}, 'w')\n")
    names = [check.name for check in check_all(out)]
    assert names == ["logits", TOKENIZER, NAME]
    (check,) = check_calls(out, *read_reference(out))
    assert check.passed
    assert check.detail == 'pipeline("text-classification", ".", trust_remote_code=True)'
    assert not (out / "ran").exists()


@pytest.mark.parametrize(
    "name",
    ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice", "ForMaskedLM"],
)
def test_a_stock_checkpoint_keeps_its_interface_too(name: str, tmp_path: Path) -> None:
    source, target = write_classifier(tmp_path / "source", name), tmp_path / "out"
    graph = capture(source)
    HuggingFace(form="stock").export(graph, target)
    save_reference(graph, target)
    config = json.loads((target / "config.json").read_text())
    assert config["architectures"] == [f"Bert{name}"]
    assert list(config.get("id2label", {}).values()) == ([] if name == "ForQuestionAnswering" else list(LABELS))
    assert loader_of(config) == f"AutoModel{name}"
    checks = list(check_all(target))
    assert checks[-1].detail.startswith(("pipeline(", f"AutoModel{name}.from_pretrained("))
    assert [check.detail for check in checks if not check.passed] == []


def test_a_call_that_fails_is_a_failed_check(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> tuple[str, ...]:
        return ("raise ValueError('no\\nsuch label')", "import no_such_library")

    monkeypatch.setattr("graphprune.artefacts.checks.call_check.example_calls", failing)
    failed, missing = check_calls(out, {}, "encoder")
    assert not failed.passed
    assert failed.detail == "it fails: ValueError: no"
    assert (missing.passed, missing.state) == (True, "care")
    assert "graphprune verify" in missing.advice
    assert missing.detail == "not run here: ModuleNotFoundError: No module named 'no_such_library'"


def test_a_call_runs_in_its_folder_and_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path.cwd()
    call = f"import os; print('said'); assert os.getcwd() == {str(tmp_path.resolve())!r}"
    assert run_call(tmp_path, call) is None
    assert Path.cwd() == before
    assert capsys.readouterr().out == ""


def test_names_of_inputs_that_are_no_names_are_left_out(out: Path) -> None:
    inputs = {"input.input_ids": IDS, "input.x=print(1)": IDS, "logits": IDS.float()}
    found = describe(out, inputs, "encoder")
    assert list(found.inputs) == ["input_ids"]
    assert found.tokenizer
    assert found.masks
    assert not found.sentences


def test_a_sentence_encoder_has_a_second_call(out: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    (tmp_path / "modules.json").write_text("[]")
    first, second = example_calls(tmp_path, {"input.input_ids": IDS}, "encoder")
    assert "output = model(" in first
    assert 'model = SentenceTransformer(".")' in second


def test_the_tokenizer_gives_the_tokens_of_the_source(out: Path, tmp_path: Path) -> None:
    expected = encodings(out)
    assert expected is not None
    assert len(expected) == len(TEXTS)
    check = check_tokenizer(out, expected)
    assert check.passed
    assert check.detail == f"{len(TEXTS)} of {len(TEXTS)} texts give the source's tokens"
    data = json.loads((out / "tokenizer.json").read_text())
    data["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    (tmp_path / "tokenizer_config.json").write_text((out / "tokenizer_config.json").read_text())
    check = check_tokenizer(tmp_path, expected)
    assert not check.passed
    assert check.detail.startswith("0 of ")
    (tmp_path / "tokenizer.json").unlink()
    assert check_tokenizer(tmp_path, expected).detail == "it cannot be loaded"
    assert encodings(tmp_path / "nothing") is encodings(None) is None


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("modules.json", [{"type": "evil.Module", "path": ""}]),
        ("modules.json", [{"type": "sentence_transformers.models.Transformer", "path": "", "kwargs": ["os.abort"]}]),
        ("1_Dense/config.json", {"activation_function": "os.abort"}),
        ("1_Dense/config.json", {"inner": [{"tokenizer_class": "evil_package.Tokenizer"}]}),
    ],
)
def test_what_sentence_transformers_would_import_is_looked_at_first(tmp_path: Path, file: str, data: object) -> None:
    modules = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Dense")]
    (tmp_path / "1_Dense").mkdir()
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Dense" / "config.json").write_text('{"activation_function": "torch.nn.modules.activation.Tanh"}')
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"], "transformers_version": "5.23.0"}')
    assert has_known_modules(tmp_path)
    (tmp_path / file).write_text(json.dumps(data))
    assert not has_known_modules(tmp_path)
