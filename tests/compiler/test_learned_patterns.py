"""AST as a recipe, to both faces: exact zeros, branches that are counted, replayed and cut, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from graphprune.analysis.analyse import analyze
from graphprune.compiler.compile import compile_model
from graphprune.errors import UsageError
from graphprune.frontend.source import capture
from graphprune.ir.plan import read_plan
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.resolution import resolve_recipe
from graphprune.pipeline.stages import expand
from graphprune.rewriting.apply import apply
from graphprune.weights.patterns import Grouped, fits_groups, kept_by_zeros
from tests.support.tiny_source import write_source

pytestmark = [pytest.mark.xdist_group("sparse"), pytest.mark.slow]
QUICK = ("recover.rows=4", "recover.length=24", "recover.lr=1e-3")


def options(source: Path, out: Path, **changes: Any) -> CompileOptions:
    text = str(source / "text.txt")
    given = CompileOptions(str(source), None, out, "ast", data=text, train_tokens="2k", settings=QUICK)
    return replace(given, **changes)


def linear(folder: Path) -> dict[str, torch.Tensor]:
    return {n: w for n, w in load_file(folder / "model.safetensors").items() if "_proj" in n}


@pytest.mark.parametrize("target", [None, "80%"])
def test_the_pattern_is_exact_in_what_ships_with_a_cut_and_without(target: str | None, tmp_path: Path) -> None:
    source = write_source(tmp_path)
    cut = {} if target is None else {"target_params": target, "prune": ("auto",), "round_to": 4}
    result = compile_model(options(source, tmp_path / "out", **cut))
    assert all(check.passed for check in result.checks)
    assert len(linear(tmp_path / "out")) == 14
    assert all(fits_groups(kept_by_zeros(weight), Grouped(2, 4), 1) for weight in linear(tmp_path / "out").values())
    steps = [each["spec"] for each in result.report["history"]]  # type: ignore[index]
    assert [step.partition("{")[0] for step in steps] == ["prune", "sparsify", "recover"][target is None :]
    rows = {measure.name: measure for measure in result.measures}
    assert rows["weights, zeros packed"].after < rows["weights, zeros packed"].before  # type: ignore[operator]


def test_branches_are_counted_checked_in_both_faces_replayed_and_cut(tmp_path: Path) -> None:
    source = write_source(tmp_path)
    changes: Any = {"settings": (*QUICK, "recover.learner=ast{slorb=8}"), "pattern": "50%"}
    result = compile_model(options(source, tmp_path / "out", **changes))
    assert all(check.passed for check in result.checks)
    assert {check.artefact for check in result.checks} >= {"graph", "huggingface", "onnx"}
    plan = read_plan(tmp_path / "out" / "graphprune" / "plan.json")
    assert {edit.name for edit in plan.edits} == {"side-branch"}
    assert len(plan.edits) == 14
    rows = {measure.name: measure for measure in result.measures}
    made = capture(str(tmp_path / "out"))
    assert rows["parameters"].after == made.parameter_count() == apply(capture(str(source)), plan).parameter_count()
    assert rows["parameters"].after > rows["parameters"].before  # type: ignore[operator]
    written = linear(tmp_path / "out")
    assert sum(name.endswith("_side_write.weight") and bool(w.any()) for name, w in written.items()) == 14
    zeros = [int((w == 0).sum()) / w.numel() for name, w in written.items() if "_side_" not in name]
    assert all(abs(share - 0.5) < 0.01 for share in zeros)
    again = compile_model(
        CompileOptions(str(tmp_path / "out"), "80%", tmp_path / "cut", "magnitude-sp", data=str(source / "text.txt"))
    )
    assert all(check.passed for check in again.checks)
    assert {group.kind for group in analyze(made).groups if group.units == 4 and "_side_" in group.id} <= {"other"}


def test_options_of_the_pattern_go_to_the_learner_and_wrong_ones_are_told(tmp_path: Path) -> None:
    given = options(tmp_path, tmp_path / "out", pattern="50%", settings=("sparsify.skip=[down_proj]",))
    recipe = resolve_recipe(given)
    assert recipe.learner == "ast{pattern=50%,skip=[down_proj]}"
    assert recipe.sparsify == {"pattern": "50%", "method": "alternating", "skip": ("down_proj",)}
    assert recipe.solves_patterns
    target: Any = type("Target", (), {"source": 100, "most": 100})()
    assert [each.name for each in expand(recipe, target)] == ["sparsify", "recover"]
    dense = resolve_recipe(replace(given, settings=("sparsify.method=null",)))
    assert dense.learner == "ast{pattern=50%}"
    assert dense.sparsify is None
    assert [each.name for each in expand(dense, target)] == ["recover"]
    other = replace(given, method="adapt-pruner-ls", target_params="80%", train_tokens="1k")
    assert resolve_recipe(replace(other, settings=("recover.learner=ast",))).learner == "ast{pattern=50%}"
    for changes, message in (
        (
            {"settings": ("sparsify.method=null", "sparsify.damping=0.1")},
            r"ast begins with dense weights and has no damping; name a sparsify.method",
        ),
        ({"settings": ("recover.learner=ast{decay=-1}",)}, r"decay of ast is 0 or more"),
        ({"settings": ("recover.learner=ats",)}, r"did you mean ast"),
        ({"pattern": "4:2"}, r"--pattern 4:2: a pattern is a share of zeros"),
        (
            {"settings": ("recover.learner=ast{slorb=16}",), "backends": ("gguf",)},
            r"adds operators to the model \(ast\)",
        ),
        (
            {"settings": ("recover.learner=ast{slorb=16}",), "target_params": "80%", "prune": ("auto",)},
            r"adds parameters behind the cut, which no target counts",
        ),
        ({"target_params": "80%", "prune": ("auto",), "stages": 2}, r"makes weights sparse in one training"),
    ):
        with pytest.raises(UsageError, match=message):
            resolve_recipe(replace(options(tmp_path, tmp_path / "out"), **changes))
