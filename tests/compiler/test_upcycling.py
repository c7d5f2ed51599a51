"""Upcycling the whole way: a dense model to experts in both faces, and those that few tokens reach cut from it."""

from pathlib import Path
from typing import Any

import pytest

from graphprune.compiler.compile import apply_plan, compile_model
from graphprune.errors import UsageError
from graphprune.ir.plan import read_plan
from graphprune.pipeline.options import ApplyOptions, CompileOptions
from tests.support.tiny_source import write_source

pytestmark = pytest.mark.xdist_group("compile")
SETTINGS = ("recover.rows=2", "recover.length=16", "recover.lr=1e-3")


def parameters(result: Any) -> tuple[float, float]:
    found = next(measure for measure in result.measures if measure.name == "parameters")
    return found.before, found.after


def test_what_it_comes_to_is_told_before_and_forms_without_experts_are_refused(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    result = compile_model(CompileOptions(str(source), "100%", dry_run=True, method="upcycle", train_tokens=64))
    before, after = parameters(result)
    assert after == before + 2 * (3 * 3 * 32 * 44 + 4 * 32)
    for changes, message in (
        ({"uniform": True}, "--uniform"),
        ({"backends": ("huggingface", "gguf")}, "--backends gguf"),
    ):
        asked: dict[str, Any] = {"method": "upcycle", "train_tokens": 64, **changes}
        with pytest.raises(UsageError, match=rf"{message}: the method upcycle adds operators to the model \(upcycle\)"):
            compile_model(CompileOptions(str(source), "100%", tmp_path / "out", **asked))


def test_a_dense_model_becomes_experts_of_which_the_least_used_go(tmp_path: Path) -> None:
    source, out, small = write_source(tmp_path / "source"), tmp_path / "out", tmp_path / "small"
    data = str(source / "text.txt")
    given: dict[str, Any] = {"data": data, "samples": 8, "length": 24}
    result = compile_model(
        CompileOptions(str(source), "100%", out, method="upcycle", train_tokens=64, settings=SETTINGS, **given)
    )
    assert {check.artefact for check in result.checks} == {"graph", "huggingface", "onnx"}
    assert all(check.passed for check in result.checks)
    before, after = parameters(result)
    assert after == before + 2 * (3 * 3 * 32 * 44 + 4 * 32)
    plan = read_plan(out / "graphprune" / "plan.json")
    assert {edit.kind for edit in plan.edits} == {"experts{count=4,top=2,seed=0}"}
    assert any("experts{count=4,top=2,seed=0} (2)" in note for note in result.notes)
    again = apply_plan(ApplyOptions(str(source), out / "graphprune" / "plan.json", tmp_path / "again"))
    assert parameters(again) == (before, after)
    assert all(check.passed for check in again.checks)
    asked: dict[str, Any] = {"prune": ("experts",), "importance": "routed-tokens", **given}
    pruned = compile_model(CompileOptions(str(out), "70%", small, **asked))
    assert all(check.passed for check in pruned.checks)
    assert any(width.kind == "experts" and width.after < 4 for width in pruned.widths)
    assert parameters(pruned)[1] <= 0.7 * after
