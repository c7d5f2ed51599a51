"""The main job from end to end, on a tiny trained-nowhere Llama with a tokenizer of its own."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import graphprune
from graphprune.compiler.compile import apply_plan, compile_model
from graphprune.errors import BudgetError, DataError, RegistryError, UsageError
from graphprune.pipeline.options import ApplyOptions, CompileOptions
from graphprune.reporting.results import Result
from graphprune.reporting.schema import Report
from tests.support.tiny_source import write_source

pytestmark = pytest.mark.xdist_group("compile")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with weights in bf16, a tokenizer, a chat template and a licence."""
    return write_source(tmp_path_factory.mktemp("source"))


def options(source: Path, out: Path, **changes: Any) -> CompileOptions:
    data = str(source / "text.txt")
    plain = CompileOptions(str(source), "75%", out, data=data, samples=8, length=24, importance="taylor", steps=2)
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def compiled(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("compiled") / "out"
    return out, compile_model(options(source, out, prune=("mlp", "attention", "residual", "blocks")))


def test_reaches_the_size_within_a_unit(compiled: tuple[Path, Result]) -> None:
    _, result = compiled
    sizes = next(m for m in result.measures if m.name == "parameters")
    assert sizes.before is not None
    assert sizes.after is not None
    assert 0.75 * sizes.before - 32 * 3 <= sizes.after <= 0.75 * sizes.before


def test_every_check_passed(compiled: tuple[Path, Result]) -> None:
    _, result = compiled
    assert {check.artefact for check in result.checks} == {"graph", "huggingface", "onnx"}
    assert all(check.passed for check in result.checks)


def test_loads_as_a_user_would(compiled: tuple[Path, Result]) -> None:
    out, _ = compiled
    model: Any = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    tokens = model.generate(**tokenizer("the cat", return_tensors="pt"), max_new_tokens=5, do_sample=False)
    assert tokens.shape[1] > 5
    assert model.dtype == torch.bfloat16


def test_companions_are_the_source_s_bytes(source: Path, compiled: tuple[Path, Result]) -> None:
    out, _ = compiled
    names = ["tokenizer.json", "tokenizer_config.json", "LICENSE", *[p.name for p in source.glob("*.jinja")]]
    for name in names:
        assert (out / name).read_bytes() == (source / name).read_bytes(), name


def test_onnx_is_complete_in_its_folder(compiled: tuple[Path, Result]) -> None:
    out, _ = compiled
    onnx.checker.check_model(str(out / "onnx" / "model.onnx"))
    assert (out / "onnx" / "tokenizer.json").is_file()
    modes = {path.stat().st_mode for path in (out / "onnx").glob("model.onnx*")}
    assert len(modes) == 1


def test_report_lists_every_file(compiled: tuple[Path, Result]) -> None:
    out, result = compiled
    report = json.loads((out / "graphprune" / "report.json").read_text())
    assert report == json.loads(json.dumps(result.report))
    Report.model_validate_json((out / "graphprune" / "report.json").read_text())
    for entry in report["files"]:
        data = (out / entry["path"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
    assert (out / "graphprune" / "recipe.yaml").is_file()


def test_replayed_plan_gives_the_same_weights(source: Path, compiled: tuple[Path, Result], tmp_path: Path) -> None:
    out, _ = compiled
    replay = tmp_path / "replay"
    apply_plan(ApplyOptions(str(source), out / "graphprune" / "plan.json", replay, backends=("huggingface",)))
    assert (replay / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_a_compiled_model_can_be_compiled_again(source: Path, compiled: tuple[Path, Result], tmp_path: Path) -> None:
    out, first = compiled
    again = replace(options(source, tmp_path / "out"), model=str(out), target_params="90%", prune=("mlp",), steps=1)
    result = compile_model(again)
    before = next(m for m in first.measures if m.name == "parameters").after
    sizes = next(m for m in result.measures if m.name == "parameters")
    assert sizes.before == before
    assert sizes.after is not None
    assert before is not None
    assert sizes.after <= 0.9 * before
    assert all(check.passed for check in result.checks)


def test_uniform_gives_a_stock_checkpoint(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compile_model(options(source, out, uniform=True, importance="magnitude", backends=("huggingface",), steps=1))
    config = json.loads((out / "config.json").read_text())
    assert "auto_map" not in config
    assert config["model_type"] == "llama"
    assert not (out / "modeling_graphprune.py").exists()


def test_dry_run_needs_only_a_configuration(source: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    result = compile_model(replace(options(source, tmp_path / "out"), model=str(tmp_path), dry_run=True))
    assert result.out is None
    assert result.widths
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"importance": "tailor"}, RegistryError, "did you mean taylor"),
        ({"backends": ("onyx",)}, RegistryError, "onnx"),
        ({"target_params": "2M"}, BudgetError, "above the model"),
        ({"target_params": "1%"}, BudgetError, "the least"),
        ({"data": "nowhere.txt"}, DataError, "nowhere.txt"),
        ({"prune": ("experts",)}, UsageError, "experts"),
        ({"vocabulary": "10"}, BudgetError, "the least with which every text can be read"),
    ],
)
def test_bad_requests_leave_nothing(
    changes: dict[str, Any], error: type[Exception], said: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        compile_model(options(source, tmp_path / "out", **changes))
    assert list(tmp_path.iterdir()) == []


def test_export_writes_and_checks_a_graph_of_the_library(source: Path, tmp_path: Path) -> None:
    graph = graphprune.capture(str(source), dtype=torch.float32)
    checks = graphprune.export(graph, tmp_path / "out", backends=("huggingface",))
    assert {check.artefact for check in checks} == {"huggingface"}
    assert all(check.passed for check in checks)
    with pytest.raises(UsageError, match="exists"):
        graphprune.export(graph, tmp_path / "out")
