"""Zeros as a recipe, to both faces: exact in the checkpoint and in the ONNX model, without a size, and beside one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file

from graphprune.compiler.compile import compile_model, keeps_state
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import read_recipe
from graphprune.pipeline.resolution import resolve_recipe
from graphprune.pipeline.stages import expand, needs_text
from graphprune.weights.patterns import Grouped, fits_groups, kept_by_zeros
from tests.support.tiny_llama import tiny_graph
from tests.support.tiny_source import write_source

pytestmark = [pytest.mark.xdist_group("sparse"), pytest.mark.slow]


def options(source: Path, out: Path, **changes: Any) -> CompileOptions:
    given = CompileOptions(
        str(source), None, out, "fista", data=str(source / "text.txt"), samples=8, length=24, pattern="2:4"
    )
    return replace(given, **changes)


def linear(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: w for name, w in weights.items() if "_proj" in name}


def test_zeros_are_exact_in_both_faces_and_say_what_is_kept(tmp_path: Path) -> None:
    source = write_source(tmp_path)
    result = compile_model(options(source, tmp_path / "out"))
    assert all(check.passed for check in result.checks)
    weights = linear(load_file(tmp_path / "out" / "model.safetensors"))
    assert len(weights) == 14
    for weight in weights.values():
        assert fits_groups(kept_by_zeros(weight), Grouped(2, 4), 1)
    model = onnx.load(tmp_path / "out" / "onnx" / "model.onnx")
    zeros = sum(int((numpy_helper.to_array(t) == 0).sum()) for t in model.graph.initializer if len(t.dims) == 2)
    assert zeros >= sum(int((w == 0).sum()) for w in weights.values())
    rows = {measure.name: measure for measure in result.measures}
    assert rows["parameters that are not zero"].after == rows["parameters"].after - sum(  # type: ignore[operator]
        int((w == 0).sum()) for w in weights.values()
    )
    assert rows["weights, zeros packed"].after < rows["weights, zeros packed"].before  # type: ignore[operator]
    assert any("onnxruntime multiplies by them like by others" in note for note in result.notes)
    assert not list(tmp_path.glob(".out*"))


def test_cut_sparse_and_trained_in_one_recipe(tmp_path: Path) -> None:
    source = write_source(tmp_path)
    given = options(
        source,
        tmp_path / "out",
        method="taylor",
        target_params="80%",
        train_tokens="1k",
        settings=("recover.rows=4", "recover.length=24", "recover.lr=1e-3"),
        round_to=4,
    )
    result = compile_model(given)
    assert all(check.passed for check in result.checks)
    weights = linear(load_file(tmp_path / "out" / "model.safetensors"))
    assert all(fits_groups(kept_by_zeros(weight), Grouped(2, 4), 1) for weight in weights.values())
    step = [each["spec"].partition("{")[0] for each in result.report["history"]]  # type: ignore[index]
    assert step == ["prune", "sparsify", "recover"]


def test_what_is_asked_for_without_a_size_is_told_before_anything_is_read(tmp_path: Path) -> None:
    for method in ("taylor", "wanda-sp"):
        with pytest.raises(UsageError, match="how small"):
            resolve_recipe(options(tmp_path, tmp_path / "out", pattern=None, method=method))
    with pytest.raises(UsageError, match=r"--target-params 80%: the method fista cuts no units, .* --prune auto"):
        resolve_recipe(options(tmp_path, tmp_path / "out", target_params="80%"))
    both = resolve_recipe(options(tmp_path, tmp_path / "out", target_params="80%", prune=("auto",)))
    assert both.cuts_units
    assert both.sparsify is not None
    with pytest.raises(UsageError, match=r"--pattern 4:2: a pattern is a share of zeros"):
        resolve_recipe(options(tmp_path, tmp_path / "out", pattern="4:2"))
    for how in ("sparsify.pattern=2:4", "sparsify.pattern='2:4'"):
        read = resolve_recipe(options(tmp_path, tmp_path / "out", pattern=None, settings=(how,)))
        assert read.sparsify == {"pattern": "2:4", "method": "fista", "start": "sparsegpt"}
    with pytest.raises(UsageError, match="or --method sparse, which sets weights to zero alone"):
        options(tmp_path, tmp_path / "out", method="taylor")
    with pytest.raises(UsageError, match="no option of sparsify"):
        resolve_recipe(options(tmp_path, tmp_path / "out", settings=("sparsify.patern=2:4",)))


@pytest.mark.parametrize("name", ["magnitude-sparse", "wanda-sparse", "sparsegpt", "fista", "sparse"])
def test_the_recipes_make_one_pass_and_say_what_they_need(name: str) -> None:
    recipe = read_recipe(name)
    target: Any = type("Target", (), {"source": 100, "most": 100})()
    passes = expand(recipe, target)
    assert [each.name for each in passes] == ["sparsify"]
    assert needs_text(recipe) == (name != "magnitude-sparse") == recipe.solves_patterns
    assert recipe.changes_weights
    assert not recipe.cuts_units
    source: Graph = tiny_graph()
    assert keeps_state(recipe, source) == (name != "magnitude-sparse")
