"""A model too large for a GPU, whose weights stay in their file, becomes there what one that fits becomes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from graphprune.compiler import compile as compiling
from graphprune.compiler.compile import compile_model
from graphprune.ir.graph import Graph
from graphprune.pipeline.options import CompileOptions
from graphprune.weights.stored import any_stored
from tests.support.tiny_source import write_source

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]


@pytest.mark.parametrize("importance", ["taylor", "taylor{aggregate=element}", "obs"])
def test_weights_stay_in_their_file_and_compute_there(
    importance: str, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scored, cut and solved there, weight by weight."""
    source = write_source(tmp_path / "source")
    stored: list[bool] = []
    placed = compiling.capture_for_work
    monkeypatch.setattr(compiling, "capture_for_work", lambda *given: noted(placed(*given), stored))
    for memory in ("1MB", "100GB"):
        options = CompileOptions(
            str(source),
            "70%",
            tmp_path / memory,
            data=str(source / "text.txt"),
            importance=importance,
            compensation="least-squares",
            samples=8,
            length=16,
            backends=("huggingface",),
            device=str(device),
            precision="float32",
            memory=memory,
        )
        assert all(check.passed for check in compile_model(options).checks)
    assert stored == [True, False]
    one, other = (load_file(tmp_path / memory / "model.safetensors") for memory in ("1MB", "100GB"))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-4)


def noted(graph: Graph, stored: list[bool]) -> Graph:
    stored.append(any_stored(graph.tensors().values()))
    return graph
