"""Compilations for a runtime: what is written is its form, with the checkpoint's function and its limits kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from graphprune.compiler.compile import compile_model
from graphprune.errors import BudgetError, ExportError
from graphprune.pipeline.options import CompileOptions
from tests.support.loaders import decilm_logits
from tests.support.tiny_source import write_source

IDS = torch.randint(3, 290, (1, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("for") / "source", num_hidden_layers=3)


def options(source: Path, out: Path, **changes: Any) -> CompileOptions:
    plain = {"out": out, "importance": "magnitude", "data": str(source / "text.txt"), "prune": ("mlp", "attention")}
    return CompileOptions(str(source), "75%", **{**plain, **changes})


def test_vllm_reads_what_the_checkpoint_computes(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = compile_model(options(source, out, runtime="vllm"))
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True, dtype=torch.float32)
    with torch.no_grad():
        wanted = model(IDS).logits[0]
    torch.testing.assert_close(decilm_logits(out / "decilm", IDS[0]), wanted, rtol=1e-4, atol=1e-4)
    blocks = json.loads((out / "decilm" / "config.json").read_text())["block_configs"]
    assert len({block["attention"]["n_heads_in_group"] for block in blocks}) == 1
    assert len({width.after for width in result.widths if width.kind == "attention"}) == 1
    assert any(note.startswith("for vllm: vllm serve OUT/decilm") for note in result.notes)
    assert "`vllm serve OUT/decilm --trust-remote-code`" in (out / "README.md").read_text()
    recipe = (out / "graphprune" / "recipe.yaml").read_text()
    assert "runtime: vllm" in recipe
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "decilm")
    assert tokenizer("the cat")["input_ids"]


def test_executorch_has_a_stock_checkpoint(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compile_model(options(source, out, runtime="executorch"))
    assert not (out / "modeling_graphprune.py").exists()
    assert json.loads((out / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_what_cannot_be_met_is_told_before_the_work(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"no multiple of 256 for model.layers.0.mlp"):
        compile_model(options(source, tmp_path / "a", runtime="sglang"))
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    other = write_source(tmp_path / "stretched", rope_parameters=rope)
    with pytest.raises(ExportError, match=r"openelm has no rotary embeddings of type linear; for mlx"):
        compile_model(options(other, tmp_path / "b", runtime="mlx"))
    assert not (tmp_path / "b").exists()
