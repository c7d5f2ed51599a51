"""Weights that stay in their file: the same graph, the same numbers, for every family; what cannot is refused."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from graphprune.frontend.source import capture
from graphprune.frontend.stored_weights import keep_in_file
from graphprune.ir.graph import Graph
from graphprune.running.inputs import decoder_inputs
from graphprune.weights.mapping import system_call
from graphprune.weights.stored import Stored, any_stored
from tests.support import zoo
from tests.support.families import families
from tests.support.families import graph as memory


def save(name: str, folder: Path, dtype: torch.dtype) -> Path:
    zoo.build(name).to(dtype).save_pretrained(folder)
    return folder


def outputs(graph: Graph) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return graph(*decoder_inputs(graph, torch.arange(14).view(2, 7) % 16))


@pytest.mark.parametrize("name", families(zoo.DECODERS))
def test_every_decoder_computes_what_it_does_in_memory(name: str, tmp_path: Path) -> None:
    stored, wide = capture(save(name, tmp_path / "model", torch.float32), stored=True), memory(name)
    assert any_stored(stored.tensors().values())
    assert str(stored) == str(wide)
    assert stored.parameter_count() == wide.parameter_count()
    for found, expected in zip(outputs(stored), outputs(wide), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", families(["gemma2", "mixtral"]))
def test_what_a_narrow_model_would_round_is_as_in_a_wide_one(name: str, tmp_path: Path) -> None:
    folder = save(name, tmp_path / "model", torch.bfloat16)
    stored, wide = (capture(folder, dtype=torch.float32, stored=each) for each in (True, False))
    for found, expected in zip(outputs(stored), outputs(wide), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.xdist_group("llama")
@pytest.mark.skipif(system_call() is None, reason="this system has no /proc and madvise as Linux does")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_they_lie_in_the_file_whatever_type_it_has(dtype: torch.dtype, tmp_path: Path) -> None:
    stored = capture(save("llama", tmp_path / "model", dtype), dtype=torch.float32, stored=True)
    held = [each for each in stored.parameters().values() if isinstance(each, Stored)]
    assert len(held) == len(stored.parameters())
    assert all(each.mapped and each.held.dtype == dtype and each.dtype == torch.float32 for each in held)


@pytest.mark.xdist_group("llama")
def test_a_model_itself_may_stay_in_its_file(tmp_path: Path) -> None:
    folder = save("llama", tmp_path / "model", torch.bfloat16)
    stored, wide = (AutoModelForCausalLM.from_pretrained(folder, dtype=each) for each in ("auto", torch.float32))
    keep_in_file(stored, torch.float32)
    assert stored.dtype == torch.float32
    assert all(isinstance(each, Stored) for each in stored.parameters())
    ids = torch.arange(14).view(2, 7)
    with torch.no_grad():
        assert torch.equal(stored(ids).logits, wide(ids).logits)
