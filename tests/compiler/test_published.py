"""Published methods the whole way: each recipe on a tiny model, to both faces, which agree with the graph."""

import json
from pathlib import Path

import pytest
import transformers

from graphprune.compiler.compile import compile_model
from graphprune.pipeline.options import CompileOptions
from tests.support.tiny_source import write_source

DEPTH = ("llm-pruner-layer", "shortgpt", "angular", "ablation-depth")
LLM_PRUNER = ("llm-pruner", "llm-pruner-channel", "llm-pruner-lora")
PUBLISHED = ("flap", "bypass", "wanda-sp", "magnitude-sp", "minitron", "slicegpt")
TRAINED = ("minitron", "llm-pruner-lora")
STOCK = ("wanda-sp", "magnitude-sp", "minitron", *DEPTH)
pytestmark = pytest.mark.xdist_group("compile")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("published"))


@pytest.mark.parametrize("method", [*PUBLISHED, *LLM_PRUNER, *DEPTH])
def test_a_published_method_reaches_both_faces(method: str, source: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "out", str(source / "text.txt")
    short = {"train_tokens": "400", "settings": ("recover.rows=2", "recover.length=20")} if method in TRAINED else {}
    if method == "bypass":
        short = {"settings": ("prune.importance=policy{steps=20}",)}
    result = compile_model(
        CompileOptions(str(source), "75%", out, data=data, samples=8, length=24, method=method, **short)
    )
    assert {check.artefact for check in result.checks} == {"graph", "huggingface", "onnx"}
    assert all(check.passed for check in result.checks)
    sizes = next(m for m in result.measures if m.name == "parameters")
    assert sizes.before is not None
    assert sizes.after is not None
    assert sizes.after <= 0.75 * sizes.before
    config = json.loads((out / "config.json").read_text())
    # Equal shares, equal widths and fewer layers have a stock form; biases where Llama has none do not.
    if method not in LLM_PRUNER:
        assert (config["architectures"] == ["LlamaForCausalLM"]) == (method in STOCK)
    assert (config.get("num_hidden_layers") == 1) == (method in DEPTH)
    if method in DEPTH:
        plain = transformers.AutoModelForCausalLM.from_pretrained(out)
        assert len(plain.model.layers) == 1
        assert sum(p.numel() for p in plain.parameters()) == sizes.after


@pytest.mark.parametrize("method", ["taylor", "wanda-sp"])
def test_the_query_heads_of_a_model_with_one_key_head_are_cut(tmp_path: Path, method: str) -> None:
    source = write_source(tmp_path / "source", num_key_value_heads=1)
    out = tmp_path / "out"
    result = compile_model(
        CompileOptions(str(source), "75%", out, data=str(source / "text.txt"), samples=8, length=24, method=method)
    )
    kept = json.loads((out / "graphprune" / "plan.json").read_text())["keep"]
    assert {"query", "gate_proj"} <= {part for id in kept for part in ("query", "gate_proj") if part in id}
    assert {check.artefact for check in result.checks} == {"graph", "huggingface", "onnx"}
    assert all(check.passed for check in result.checks), "the cut model is the masked one, and both faces are it"
