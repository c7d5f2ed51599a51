"""Published methods the whole way: each recipe on a tiny model, to both faces, which agree with the graph."""

import json
from pathlib import Path

import pytest

from graphprune.compiler.compile import compile_model
from graphprune.pipeline.options import CompileOptions
from tests.support.tiny_source import write_source

STOCK = ("wanda-sp", "magnitude-sp", "minitron")
pytestmark = pytest.mark.xdist_group("compile")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("published"))


@pytest.mark.parametrize("method", ["flap", "wanda-sp", "magnitude-sp", "minitron"])
def test_a_published_method_reaches_both_faces(method: str, source: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "out", str(source / "text.txt")
    short = {"train_tokens": "400", "settings": ("recover.rows=2", "recover.length=20")} if method == "minitron" else {}
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
    # Equal shares and equal widths have a stock form; biases where Llama has none do not.
    assert (config["architectures"] == ["LlamaForCausalLM"]) == (method in STOCK)
