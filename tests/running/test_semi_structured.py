"""Weights of two in four: which can be packed for a GPU, that packing them loses nothing, and what is refused."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from graphprune.compiler.compile import compile_model
from graphprune.errors import UsageError
from graphprune.pipeline.options import CompileOptions
from graphprune.running.semi_structured import has_two_of_four, linears, obstacle, pack_semi_structured
from graphprune.weights.patterns import Grouped
from tests.support.tiny_source import write_source

CUTLASS: Any = importlib.import_module("torch.sparse._semi_structured_conversions")
SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128}


def weight(rows: int = 32, columns: int = 64, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(dtype)


def sparse(dense: Tensor) -> Tensor:
    return dense * Grouped(2, 4).keep(dense.abs())


def test_what_is_left_in_each_four_is_two() -> None:
    assert not has_two_of_four(weight())
    assert has_two_of_four(sparse(weight()))
    assert has_two_of_four(torch.zeros(32, 64))
    assert not has_two_of_four(sparse(weight()).roll(1, 1))  # groups are four from the first input on


def test_zeros_beyond_two_of_four_are_packed_too_and_come_back() -> None:
    """torch's packing itself runs on a processor: it takes what `has_two_of_four` says, and loses nothing."""
    dense = sparse(weight())
    dense[3] = 0
    dense[:, 8:12] = 0
    dense[5, 16:20] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    values, places = CUTLASS.sparse_semi_structured_from_dense_cutlass(dense)
    assert values.numel() == dense.numel() // 2
    assert values.nbytes + places.nbytes == dense.nbytes * 9 // 16
    assert torch.equal(CUTLASS.sparse_semi_structured_to_dense_cutlass(values, places), dense)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (sparse(weight()), ""),
        (weight(), "not two zeros in each four inputs"),
        (sparse(weight(dtype=torch.float32)), "float32 is not of 16 bits"),
        (sparse(weight(33)), "33 x 64 is no multiple of 32 x 64"),
        (sparse(weight(32, 96)), "32 x 96 is no multiple of 32 x 64"),
    ],
)
def test_what_cannot_be_packed_says_why(given: Tensor, says: str) -> None:
    assert obstacle(given, (32, 64)) == says


def test_a_weight_that_two_modules_have_is_shared() -> None:
    config = transformers.LlamaConfig(**SIZES, vocab_size=64, num_hidden_layers=2, tie_word_embeddings=True)
    model: Any = transformers.LlamaForCausalLM(config)
    found = {name: shared for name, _, shared in linears(model)}
    assert [name for name, shared in found.items() if shared] == ["lm_head.weight"]
    assert len(found) == 15


def test_without_a_gpu_it_says_so_in_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UsageError, match=r"^semi-structured weights are for a GPU: torch finds no GPU.*to\('cuda'\)$"):
        pack_semi_structured(nn.Linear(64, 32))


def compiled(folder: Path) -> Any:
    """A checkpoint of a compilation to 2:4, loaded as a user loads it."""
    source = write_source(folder / "source", **SIZES)
    compile_model(
        CompileOptions(
            str(source), out=folder / "out", method="magnitude-sparse", pattern="2:4", backends=("huggingface",)
        )
    )
    return transformers.AutoModelForCausalLM.from_pretrained(folder / "out", dtype=torch.bfloat16)


def test_a_checkpoint_of_ours_has_what_can_be_packed(tmp_path: Path) -> None:
    found = {name: obstacle(each.weight, (32, 64)) for name, each, shared in linears(compiled(tmp_path)) if not shared}
    assert len(found) == 14
    assert not any(found.values())


@pytest.mark.gpu
@pytest.mark.xdist_group("gpu")
def test_a_packed_model_is_the_dense_one(device: torch.device, tmp_path: Path) -> None:
    if device.type != "cuda":
        pytest.skip("needs a GPU; the stand-in has no kernels of its own")
    model = compiled(tmp_path).to(device)
    ids = torch.arange(24, device=device).view(2, 12)
    dense, held = model(ids).logits, torch.cuda.memory_allocated(device)
    found = pack_semi_structured(model)
    assert len(found.packed) == 14
    assert found.dense == {"lm_head.weight": "another module has it too"}
    assert torch.cuda.memory_allocated(device) < held
    torch.testing.assert_close(model(ids).logits, dense, rtol=0, atol=0.02 * float(dense.abs().max()))
    torch.testing.assert_close(model(ids[:, :1]).logits, dense[:, :1], rtol=0, atol=0.02 * float(dense.abs().max()))
    with pytest.raises(UsageError, match=re.escape("no weight can be packed")):
        pack_semi_structured(nn.Linear(64, 32, dtype=torch.bfloat16, device=device))
