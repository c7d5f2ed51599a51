"""Weights tuned in 4 bits: the file holds their codes, scales and moved offsets, and computes what they compute."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from graphprune.analysis.analyse import analyze
from graphprune.artefacts import parity
from graphprune.artefacts.check_process import check_all
from graphprune.artefacts.export import load_backends
from graphprune.backends.ort.backend import Ort
from graphprune.backends.ort.grids import find_grids
from graphprune.budget.quantities import FileBytes
from graphprune.errors import ExportError, UsageError
from graphprune.ir.graph import Graph
from graphprune.training.grid_adapters import on_grids
from graphprune.training.options import LoraOptions
from graphprune.weights.grids import SCALE
from tests.support.families import families, graph
from tests.support.tiny_llama import tiny_graph


def tuned(source: Graph, block: int = 16, by: float = 0.05) -> Graph:
    """The graph as a tuning of its weights leaves it."""
    trainee = on_grids(source, LoraOptions(rank=2, alpha=8.0, block=block), seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(trainee.trainable.values()):
            parameter.copy_(by * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    made = source.with_tensors({n: torch.nn.Parameter(t, False) for n, t in trainee.merged().items()})
    return replace(made, companions=trainee.companions())


def parts_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What every packed product of a model multiplies by: codes, scales, offsets."""
    model = onnx.load(folder / "model.onnx")
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    packed = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    return {
        n.input[1].removesuffix("_Q4"): dict(zip("csz", (tensors[i] for i in n.input[1:]), strict=True)) for n in packed
    }


@pytest.mark.parametrize("name", families(("llama", "gpt2", "qwen2")))
def test_the_file_holds_what_was_tuned(name: str, tmp_path: Path) -> None:
    made = tuned(graph(name))
    Ort("int4", block=16).export(made, tmp_path)
    parts = parts_of(tmp_path / "onnx-int4")
    assert parts.keys() == made.companions[SCALE].keys()
    for weight, found in parts.items():
        grid = find_grids(made, 16)[weight]
        assert found["z"].dtype == np.float32
        assert np.array_equal(found["z"].reshape(grid.offset.shape), grid.offset.numpy())
        assert np.array_equal(found["s"].reshape(grid.scale.shape), grid.scale.numpy())
        codes = np.stack([found["c"] & 15, found["c"] >> 4], -1).reshape(len(grid.codes), -1)
        assert np.array_equal(codes[:, : grid.codes.shape[1]], grid.codes.numpy())
        stored = made.parameters()[weight].detach()
        assert torch.equal(grid.values(), stored.t() if name == "gpt2" else stored)


@pytest.mark.parametrize("name", families(("llama", "gpt2")))
def test_it_computes_what_was_tuned(name: str, tmp_path: Path) -> None:
    """Far nearer than a packing of other weights comes: nothing is rounded but sums."""
    made = tuned(graph(name))
    Ort("int4", block=16).export(made, tmp_path)
    parity.save_reference(made, tmp_path)
    checks = list(check_all(tmp_path))
    assert all(each.passed for each in checks)
    assert max(each.difference for each in checks if "tokens" not in each.name) < 1e-4


@pytest.mark.xdist_group("llama")
def test_weights_that_only_lie_on_their_grids_have_offsets_in_four_bits(tmp_path: Path) -> None:
    made = tuned(tiny_graph(), by=0.0)
    Ort("int4", block=16).export(made, tmp_path)
    assert {found["z"].dtype.name for found in parts_of(tmp_path / "onnx-int4").values()} == {"uint8"}
    Ort("int4", block=16, folder="own").export(tiny_graph(), tmp_path)
    theirs, ours = (parts_of(tmp_path / folder) for folder in ("own", "onnx-int4"))
    for weight, found in ours.items():
        np.testing.assert_allclose(found["s"].ravel(), theirs[weight]["s"].ravel(), rtol=1e-6)
        assert (found["z"].ravel() == theirs[weight]["z"].ravel()).mean() > 0.99


def test_rounded_weights_are_packed_as_they_were_tuned_and_changed_ones_anew(tmp_path: Path) -> None:
    made = tuned(tiny_graph())
    rounded = {n: torch.nn.Parameter(p.detach().bfloat16().float()) for n, p in made.parameters().items()}
    known = find_grids(made, 16)
    for name, grid in find_grids(made.with_tensors(rounded), 16).items():
        assert torch.equal(grid.codes, known[name].codes)
        assert torch.equal(grid.offset, known[name].offset)
    changed = "model.layers.0.mlp.up_proj.weight"
    other = made.with_tensors({changed: torch.nn.Parameter(1.3 * made.parameters()[changed].detach())})
    assert known.keys() - find_grids(other, 16).keys() == {changed}
    Ort("int4", block=16).export(other, tmp_path)
    assert parts_of(tmp_path / "onnx-int4")[changed]["z"].dtype == np.uint8


def test_a_file_that_cannot_hold_them_is_refused() -> None:
    """Before anything is read, where a recipe says that weights are tuned."""
    for spec, said in (
        ("ort{precision=int8}", "onnx-int8 packs in 8 bits what is tuned in 4, in blocks of 32"),
        ("ort{precision=int4,block=64}", "onnx-int4 has blocks of 64 and weights are tuned in blocks of 32"),
        ("ort{precision=int4,symmetric=true}", "has no offsets"),
        ("ort{precision=int4,embeddings=true}", "packs tables, which are not tuned"),
    ):
        with pytest.raises(UsageError, match=said):
            load_backends((spec,))[0].tuned(32)
    for spec in ("huggingface", "onnx", "ort", "ort{precision=fp16}", "gguf"):
        assert load_backends((spec,))[0].tuned(32) == load_backends((spec,))[0]
    assert Ort("int4", block=16).tuned(32) == Ort("int4", block=16, fractions=True)


def test_a_graph_that_does_not_fit_the_blocks_is_refused(tmp_path: Path) -> None:
    made = tuned(tiny_graph(), block=16)
    with pytest.raises(ExportError, match=r"tuned in blocks of 16 inputs: write ort\{precision=int4,block=16\}"):
        Ort("int4", block=32).export(made, tmp_path)
    with pytest.raises(ExportError, match="tuned in 4 bits"):
        Ort("int8", block=16).export(made, tmp_path)
    for precision in ("fp32", "fp16"):
        Ort(precision).export(made, tmp_path)  # type: ignore[arg-type]


def test_the_size_that_is_foretold_has_offsets_of_four_bytes(tmp_path: Path) -> None:
    made = tuned(tiny_graph())
    backend = Ort("int4", block=16).tuned(16)
    groups, quantity = analyze(tiny_graph()), backend.quantity(tiny_graph())
    foretold = quantity.cost(groups)(groups.sizes()) / quantity.unit
    backend.export(made, tmp_path)
    size = backend.size_in(tmp_path / backend.place)
    assert size <= foretold
    short = FileBytes("int4", 16, place=backend.label)
    assert short.cost(groups)(groups.sizes()) / short.unit < foretold
