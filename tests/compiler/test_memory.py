"""A model that stays in its file becomes the same artefact as one in memory, by every kind of method."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphprune.compiler import compile as compiling
from graphprune.compiler.compile import apply_plan, compile_model
from graphprune.errors import CaptureError, UsageError
from graphprune.frontend import source as reading
from graphprune.ir.graph import Graph
from graphprune.passes.importance.taylor import Taylor
from graphprune.pipeline.options import ApplyOptions, CompileOptions
from graphprune.weights.stored import any_stored
from tests.support.tiny_source import write_source

pytestmark = [pytest.mark.xdist_group("memory"), pytest.mark.slow]
METHODS: dict[str, dict[str, Any]] = {
    "taylor": {"importance": "taylor", "steps": 2, "prune": ("mlp", "attention", "blocks")},
    "elements": {"importance": "taylor{aggregate=element}", "prune": ("mlp", "attention", "residual")},
    "samples": {"importance": "taylor{aggregate=element,order=mixed,gradients=sample}", "prune": ("mlp", "attention")},
    "adaptive, solved": {"importance": "taylor", "allocation": "adaptive", "compensation": "least-squares"},
    "obs": {"importance": "obs", "compensation": "bias"},
    "stock": {"importance": "wanda", "uniform": True},
    "trained": {"importance": "taylor", "settings": ("recover.tokens=1k", "recover.distill=1.0", "recover.rows=2")},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


def options(source: Path, out: Path, **changes: Any) -> CompileOptions:
    data = str(source / "text.txt")
    plain = CompileOptions(str(source), "75%", out, data=data, samples=8, length=24, backends=("huggingface", "onnx"))
    return replace(plain, **changes)


@pytest.mark.parametrize("name", METHODS)
def test_the_artefact_is_the_same(name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[Graph] = []
    finish = compiling.finish

    def watched(work: Any, *rest: Any) -> Any:
        results.append(work.source)
        return finish(work, *rest)

    monkeypatch.setattr(compiling, "finish", watched)
    outs = {memory: tmp_path / memory for memory in ("1MB", "100GB")}
    for memory, out in outs.items():
        result = compile_model(options(source, out, memory=memory, **METHODS[name]))
        assert all(check.passed for check in result.checks)
    assert [any_stored(each.tensors().values()) for each in results] == [True, False]
    small, large = outs.values()
    for file in ("model.safetensors", "graphprune/plan.json", "onnx/model.onnx"):
        assert (small / file).read_bytes() == (large / file).read_bytes(), file
    assert "stay in their file" in (small / "graphprune" / "report.json").read_text()


def test_a_plan_is_replayed_in_little_memory(source: Path, tmp_path: Path) -> None:
    compile_model(options(source, tmp_path / "made", importance="magnitude"))
    plan = tmp_path / "made" / "graphprune" / "plan.json"
    apply_plan(ApplyOptions(str(source), plan, tmp_path / "again", memory="1MB"))
    made, again = (tmp_path / name / "model.safetensors" for name in ("made", "again"))
    assert made.read_bytes() == again.read_bytes()


def test_an_amount_that_is_none_is_refused_at_once(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'lots' is no number of bytes"):
        options(source, tmp_path / "out", memory="lots")


def test_a_model_that_cannot_be_traced_so_is_read_into_memory(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Graph:
        raise CaptureError("not so")

    monkeypatch.setattr(reading, "capture_stored", refuse)
    result = compile_model(options(source, tmp_path / "out", importance="magnitude", memory="1MB"))
    assert all(check.passed for check in result.checks)
    assert not any("stay in their file" in note for note in result.notes)


def test_a_run_that_was_stopped_has_its_scores(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = options(source, tmp_path / "out", importance="taylor", memory="1MB")
    with monkeypatch.context() as stopped:
        stopped.setattr(compiling, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compile_model(asked)
    monkeypatch.setattr(Taylor, "exact_scores", interrupt)
    told: list[str] = []
    result = compile_model(asked, lambda stage, *_, **__: told.append(stage))
    assert all(check.passed for check in result.checks)
    assert any(stage.startswith("going on from") for stage in told)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def interrupt(*_: Any) -> Any:
    raise KeyboardInterrupt
