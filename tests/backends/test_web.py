"""The web backend: the files that transformers.js asks for, and each computes what the graph computes.

What runs it is not needed here: benchmarks/web_runtime.py tries it in Node and in a browser.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
import torch

from graphprune import Graph, Plan, analyze, apply, capture
from graphprune.backends.onnx.backend import Onnx
from graphprune.backends.runtime.runner import load
from graphprune.backends.web.backend import Web
from graphprune.backends.web.config import KNOWN, check_source, loading
from graphprune.backends.web.files import chunks
from graphprune.backends.web.last_logits import NAME, head_of
from graphprune.backends.web.variants import SUFFIXES, VARIANTS, file_of
from graphprune.errors import ExportError, UsageError
from graphprune.running.perplexity import graph_logits
from tests.support.families import graph as family
from tests.support.tiny_source import write_source

# What its files call beside ai.onnx: all are in onnxruntime-web's builds (it ran them, docs/runtimes.md).
CONTRIBUTED = {
    "GroupQueryAttention",
    "RotaryEmbedding",
    "SkipSimplifiedLayerNormalization",
    "MatMulNBits",
}
IDS = torch.randint(3, 290, (1, 12), generator=torch.Generator().manual_seed(0))
CLOSE: Mapping[str, float] = {"fp32": 1e-4, "fp16": 1e-2, "q8": 0.2, "q4": 0.3, "q4f16": 0.3}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Three layers with different heads and channels, attention of the second absent."""
    folder = write_source(tmp_path_factory.mktemp("web") / "source", num_hidden_layers=3, hidden_size=64)
    graph = capture(folder, dtype=torch.float32)
    groups = analyze(graph)
    mlps = [group for group in groups.groups if group.kind == "mlp"]
    keep = {group.id: tuple(range(group.units - 4 * at)) for at, group in enumerate(mlps)}
    heads = next(group for group in groups.groups if group.kind == "attention")
    return apply(graph, Plan({**keep, heads.id: (0,)}, (groups.branches[2].id,)))


@pytest.fixture(scope="module")
def out(small: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    Web(dtype="q4").export(small, folder)
    return folder / "web"


def feeds(last: int | None = 0) -> dict[str, Any]:
    ids = IDS.numpy()
    known: dict[str, Any] = {"input_ids": ids, "attention_mask": numpy.ones_like(ids)}
    known |= {"position_ids": numpy.arange(ids.shape[1])[None]}
    return known if last is None else {**known, NAME: numpy.array(last, numpy.int64)}


def test_the_folder_is_one_that_transformers_js_opens(out: Path) -> None:
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    models = {"model.onnx", "model_fp16.onnx", "model_quantized.onnx", "model_q4.onnx", "model_q4f16.onnx"}
    assert {f"onnx/{name}" for name in models} == {name for name in names if name.startswith("onnx/")}
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert config["model_type"] in KNOWN
    assert config["num_hidden_layers"] == 3, "names of caches go up to the last layer's, absent ones left out"
    assert (config["num_key_value_heads"], config["head_dim"]) == (2, 16)
    assert config["transformers.js_config"]["dtype"] == "q4"
    assert "use_external_data_format" not in config["transformers.js_config"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_inputs_and_operators_are_those_that_the_web_has(out: Path, variant: str) -> None:
    model = onnx.load(out / "onnx" / f"model{SUFFIXES[variant]}.onnx")  # type: ignore[index]
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    caches = {name for name in types if name.startswith("past_key_values.")}
    assert caches == {f"past_key_values.{layer}.{part}" for layer in (0, 2) for part in ("key", "value")}
    assert {types[name] for name in set(types) - caches} == {onnx.TensorProto.INT64}
    half = variant in ("fp16", "q4f16")
    assert {types[name] for name in caches} == {onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT}
    shapes = {v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    assert [shapes[f"past_key_values.{layer}.key"][1] for layer in (0, 2)] == [1, 2], "each layer's own"
    assert shapes["past_key_values.0.key"][::2] == ["batch_size", "past_sequence_length"]
    assert shapes[NAME] == []
    (logits,) = (value for value in model.graph.output if value.name == "logits")
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    other = {node.op_type for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    assert other <= CONTRIBUTED
    assert next(entry.version for entry in model.opset_import if not entry.domain) <= 21


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_computes_what_the_graph_does(small: Graph, out: Path, variant: Any) -> None:
    wanted = graph_logits(small)(IDS)[0].detach().numpy()
    opened = load(out / "onnx" / file_of(variant))
    found = opened.run(*(feeds(None)[name] for name in ("input_ids", "attention_mask", "position_ids")))[0][0]
    assert numpy.abs(found - wanted).max() <= CLOSE[variant] * numpy.abs(wanted).max()
    assert opened.precision == {"q8": "int8", "q4": "int4", "q4f16": "int4"}.get(variant, variant)


def test_logits_of_the_last_tokens_alone(out: Path) -> None:
    opened = load(out / "onnx" / "model.onnx")
    past = {cache.name: cache.empty(1) for cache in opened.caches}
    whole = opened.infer({**feeds(0), **past})["logits"]
    for count in (1, 3, 12):
        last = opened.infer({**feeds(count), **past})["logits"]
        assert numpy.allclose(last, whole[:, -count:], atol=1e-5)
    prompt = IDS.tolist()
    step = numpy.argmax(whole[0, -1])
    assert opened.generate(prompt, max_new_tokens=4)[0][0] == step


def test_large_files_have_their_weights_beside_them(small: Graph, tmp_path: Path) -> None:
    Web(variants=("fp32", "q8"), file_bytes=40_000).export(small, tmp_path)
    config = json.loads((tmp_path / "web" / "config.json").read_text())
    counts = config["transformers.js_config"]["use_external_data_format"]
    for name, count in counts.items():
        there = {path.name for path in (tmp_path / "web" / "onnx").glob(f"{name}_data*")}
        assert there == {f"{name}_data", *(f"{name}_data_{index}" for index in range(1, count))}
    assert counts["model.onnx"] > 1
    wanted = graph_logits(small)(IDS)[0].detach().numpy()
    opened = load(tmp_path / "web" / "onnx" / "model.onnx")
    found = opened.run(*(feeds(None)[name] for name in ("input_ids", "attention_mask", "position_ids")))[0][0]
    assert numpy.allclose(found, wanted, atol=1e-4 * numpy.abs(wanted).max())


def test_weights_are_shared_out_among_files_of_a_size() -> None:
    sizes = (500, 400, 900, 2000, 10)
    tensors = [onnx.TensorProto(name=str(at), raw_data=bytes(size)) for at, size in enumerate(sizes)]
    assert [[each.name for each in part] for part in chunks(tensors, 1200)] == [["0", "1"], ["2"], ["3"], ["4"]]
    assert loading("", {}) == {"kv_cache_dtype": {"fp16": "float16", "q4f16": "float16"}}


@pytest.mark.parametrize("variant", ["fp32", "fp16", "q8", "q4"])
def test_one_variant_can_be_asked_for_by_size(small: Graph, out: Path, variant: Any) -> None:
    quantity = Web(variants=(variant,)).quantity(small)
    assert quantity is not None
    bound = quantity.cost(analyze(small))(analyze(small).sizes()) // quantity.unit
    assert (out / "onnx" / file_of(variant)).stat().st_size <= bound
    assert Web().quantity(small) is None
    assert Web.size_in(out) == sum(path.stat().st_size for path in (out / "onnx").iterdir())


def test_bad_options_and_other_models_are_refused() -> None:
    for options in ({"variants": ("q5",)}, {"variants": ()}, {"variants": ("q4", "q4")}, {"dtype": "q9"}):
        with pytest.raises(UsageError, match="variants"):
            Web(**options)
    with pytest.raises(ExportError, match="language models with a cache of keys and values; write onnx"):
        check_source(family("bert"))
    with pytest.raises(ExportError, match=r"this model keeps past_key_values\.\d+\.conv"):
        Web().require_source(family("mamba"))


def test_weights_that_were_tuned_in_4_bits() -> None:
    assert Web(variants=("fp32", "q4")).tuned(64) == Web(variants=("fp32", "q4"))
    with pytest.raises(UsageError, match=r"no q8 of what is tuned in 4 bits: write web\{variants=\[fp32,fp16,q4\]\}"):
        Web().tuned(32)
    with pytest.raises(UsageError, match=r"blocks of 32"):
        Web(variants=("q4",)).tuned(48)


def test_a_head_that_is_no_product_is_left_alone(small: Graph) -> None:
    model = Onnx().build(small)
    logits = next(value for value in model.graph.outputs if value.name == "logits")
    head = head_of(logits)
    assert head is not None
    assert head.op_type == "MatMul"
    present = next(value for value in model.graph.outputs if value.name == "present.0.key")
    assert head_of(present) is None


def test_what_node_is_told_to_try_is_javascript() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    from benchmarks.web_runtime import NODE

    checked = subprocess.run(
        [node, "--check", "--input-type=module"], input=NODE, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
