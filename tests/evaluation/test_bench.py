"""Generating and measuring: sampling, the shared cache, `graphprune generate` and `graphprune bench`."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from graphprune.backends.onnx.backend import Onnx
from graphprune.backends.ort.backend import Ort
from graphprune.backends.runtime.runner import OnnxModel, load
from graphprune.cli.main import make_app
from graphprune.errors import GraphpruneError, UsageError
from graphprune.evaluation.bench import Setting, Subject, bench, engines, models_in
from graphprune.frontend.source import capture
from graphprune.running.sampling import Sampling, keep_nucleus
from tests.support.families import graph
from tests.support.tiny_source import write_source

pytestmark = pytest.mark.xdist_group("llama")
PROMPTS = [[5, 9, 11, 7, 3], [8, 2], [40, 41, 42]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("running")
    Onnx().export(graph("llama"), path)
    Ort().export(graph("llama"), path)
    return path


@pytest.fixture(scope="module")
def shared(folder: Path) -> OnnxModel:
    return load(folder / "onnx-ort", "cpu", threads=1)


def test_one_buffer_that_grows_gives_the_tokens_of_a_cache_that_is_handed_on(folder: Path, shared: OnnxModel) -> None:
    portable = load(folder / "onnx", "cpu", threads=1)
    assert shared.shares_cache
    assert not portable.shares_cache
    wanted = portable.generate(PROMPTS, 40)
    assert shared.generate(PROMPTS, 40) == wanted
    steps = shared.steps(PROMPTS, room=1)  # full after every few steps
    found = np.stack([next(steps) for _ in range(40)], axis=1)
    assert found.tolist() == wanted


def test_the_nucleus_is_the_fewest_tokens_with_the_share() -> None:
    logits = np.log(np.array([[0.5, 0.05, 0.3, 0.15], [0.97, 0.01, 0.01, 0.01]]))
    kept = np.isfinite(keep_nucleus(logits, 0.75))
    assert kept.tolist() == [[True, False, True, False], [True, False, False, False]]
    random = np.random.default_rng(0)
    many = np.repeat(logits[:1], 5000, axis=0)
    drawn = np.bincount(Sampling(1.0, top_p=0.75).choose(many, random), minlength=4) / 5000
    np.testing.assert_allclose(drawn, [0.625, 0, 0.375, 0], atol=0.02)


def test_a_penalty_makes_known_tokens_less_likely_whatever_their_sign() -> None:
    logits = np.array([[2.0, 1.5, -1.0, -3.0]])
    random = np.random.default_rng(0)
    assert Sampling(repetition_penalty=2.0).choose(logits, random, [[0]]).tolist() == [1]
    assert Sampling(repetition_penalty=2.0).choose(-logits, random, [[3]]).tolist() == [3]
    assert Sampling(repetition_penalty=4.0).choose(-logits, random, [[3]]).tolist() == [2]
    assert Sampling(repetition_penalty=2.0).choose(logits, random, [[]]).tolist() == [0]


def test_a_penalty_ends_a_loop(shared: OnnxModel) -> None:
    free, held = (shared.generate(PROMPTS[:1], 48, sampling=Sampling(repetition_penalty=p))[0] for p in (1.0, 100.0))
    assert len(set(held)) > len(set(free))
    assert len(set(held[:20])) == 20  # nothing comes back before all else was used


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_p": 0.0}, "top-p is a share"),
        ({"top_p": 1.5}, "top-p is a share"),
        ({"temperature": -1.0}, "must not be negative"),
        ({"repetition_penalty": 0.0}, "above 0"),
    ],
)
def test_sampling_says_what_it_takes(options: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Sampling(**options)  # type: ignore[arg-type]


def test_bench_times_all_models_and_says_their_memory(folder: Path) -> None:
    subjects = [Subject(path.name, path) for path in models_in(folder)]
    assert [s.label for s in subjects] == ["onnx", "onnx-ort"]
    found = bench(subjects, Setting(context=8, tokens=4, runs=3, threads=1), lambda *_: None)
    assert [speed.subject for speed in found] == subjects
    for speed in found:
        assert speed.prefill.value > 0
        assert speed.decode.value > 0
        assert speed.decode.runs == 3
        assert speed.first == pytest.approx(8000 / speed.prefill.value)
        assert speed.memory > 20e6
        assert speed.size == sum(p.stat().st_size for p in speed.subject.folder.glob("model.onnx*"))


def test_bench_names_the_model_that_does_not_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(GraphpruneError, match=r"cannot open .*model\.onnx"):
        bench([Subject("broken", tmp_path)], Setting(context=2, tokens=1, runs=1), lambda *_: None)
    with pytest.raises(UsageError, match="at least one token"):
        bench([Subject("any", folder)], Setting(context=0), lambda *_: None)


def test_engines_are_known_and_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engines(["onnxruntime"]) == ("onnxruntime",)
    with pytest.raises(UsageError, match="unknown engine vllm"):
        engines(["vllm"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install onnxruntime-genai"):
        engines(["genai"])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as compile leaves it: a checkpoint with its tokenizer, and ONNX models."""
    path = write_source(tmp_path_factory.mktemp("source"))
    source = capture(path)
    for backend in (Onnx(), Ort()):
        backend.export(source, path)
    return path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(make_app(), list(arguments))


def test_generate_takes_several_prompts_and_a_variant(out: Path) -> None:
    several = run("generate", str(out), "one", "two two", "--tokens", "5", "--json")
    assert several.exit_code == 0, several.output
    results = json.loads(several.stdout)["results"]
    assert [entry["prompt"] for entry in results] == ["one", "two two"]
    one = run("generate", str(out), "one", "--tokens", "5", "--json", "--variant", "onnx-ort")
    assert json.loads(one.stdout)["tokens"] == results[0]["tokens"]
    printed = run("generate", str(out), "one", "two two", "--tokens", "5").stdout
    assert printed == "".join(f"{r['prompt']}{r['text']}\n\n" for r in results)[:-1]


def test_a_prompt_beyond_the_context_is_refused(out: Path) -> None:
    refused = run("generate", str(out), "the cat " * 20, "--tokens", "40")
    assert isinstance(refused.exception, UsageError)
    assert "more than the 64 positions" in str(refused.exception)
    missing = run("generate", str(out), "the cat", "--variant", "onnx-int4")
    assert "onnx-int4" in str(missing.exception)


def test_bench_prints_one_row_a_model(out: Path, tmp_path: Path) -> None:
    dense = write_source(tmp_path)  # has no ONNX model, so one is exported
    options = ["--context", "8", "--tokens", "2", "--runs", "1", "--threads", "1"]
    told = run("bench", str(out), *options, "--against", str(dense), "--json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)["results"]
    assert [entry["model"].split("/")[-1] for entry in found] == ["onnx-ort", "onnx", "onnx-ort"]
    assert "decode tokens/s" in run("bench", str(out), *options).stdout
