"""The GGUF backend: what is read back is what the graph holds, and llama.cpp computes what the graph computes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers

from graphprune import Edit, Graph, Plan, analyze, apply, capture
from graphprune.artefacts import parity
from graphprune.artefacts.checks.gguf_check import can_check
from graphprune.backends.gguf.backend import Gguf
from graphprune.backends.gguf.shapes import llama3_factors, read_shape
from graphprune.backends.gguf.tokens import splitting
from graphprune.errors import ExportError, UsageError
from graphprune.ir.serial import stored_tensors
from graphprune.running import comparison
from tests.support.families import graph as family
from tests.support.tiny_source import write_source

gguf: Any = pytest.importorskip("gguf")
needs_llama = pytest.mark.skipif(not can_check(), reason="llama-cpp-python is not installed: it takes long to build")
SHAPE = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256}
ROPES = {
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    "linear": {"factor": 2.0},
}


def make(folder: Path, **changes: Any) -> Graph:
    """A Llama of three layers whose weights are large enough to tell a wrong rotation."""
    torch.manual_seed(0)
    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SHAPE, **HEADS, **changes}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, float(parameter.ndim == 1), 0.3 if parameter.ndim > 1 else 0.2)
    model.save_pretrained(folder)
    return capture(folder)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return make(tmp_path_factory.mktemp("llama"))


def cut(graph: Graph, *kinds: str, unequal: bool = False) -> Graph:
    groups = [group for group in analyze(graph).prunable() if group.kind in kinds]
    left = [group.units - 1 - (index if unequal and group.kind == "mlp" else 0) for index, group in enumerate(groups)]
    return apply(graph, Plan({group.id: tuple(range(n)) for group, n in zip(groups, left, strict=True)}))


def drop(graph: Graph, *places: int) -> Graph:
    branches = analyze(graph).branches
    return apply(graph, Plan(dropped=tuple(branches[place].id for place in places)))


def read(path: Path) -> tuple[dict[str, Any], dict[str, numpy.ndarray[Any, Any]]]:
    reader = gguf.GGUFReader(path)
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return {name: field.contents() for name, field in reader.fields.items()}, tensors


def test_every_tensor_reads_back(dense: Graph, tmp_path: Path) -> None:
    small = cut(dense, "mlp", "attention", "residual")
    _, found = read(Gguf(precision="f32").export(small, tmp_path)[0])
    stored = {name: t for name, t in stored_tensors(small).items() if name in small.parameters()}
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3)
    names = {name: table.get_name(name, try_suffixes=(".weight",)) for name in stored}
    assert set(found) == set(names.values())
    for name, tensor in stored.items():
        values = found[names[name]]
        assert values.shape == tuple(tensor.shape), name
        if "q_proj" in name or "k_proj" in name:  # rows of each head are in another order
            values, tensor = numpy.sort(values, 0), tensor.sort(0).values
        assert numpy.array_equal(values, tensor.detach().numpy()), name


def test_layers_that_differ_have_lists(dense: Graph, tmp_path: Path) -> None:
    fields, _ = read(Gguf().export(cut(dense, "mlp", unequal=True), tmp_path)[0])
    assert fields["general.architecture"] == "deci"
    assert fields["deci.feed_forward_length"] == [95, 94, 93]
    assert fields["deci.attention.head_count"] == 4


def test_equal_layers_are_a_plain_llama(dense: Graph, tmp_path: Path) -> None:
    fields, tensors = read(Gguf(precision="q8_0").export(dense, tmp_path)[0])
    assert fields["general.architecture"] == "llama"
    assert fields["llama.feed_forward_length"] == 96
    weight = dense.parameters()["model.layers.0.mlp.up_proj.weight"].detach().numpy()
    error = numpy.abs(tensors["blk.0.ffn_up.weight"] - weight).max()
    assert 0 < error <= numpy.abs(weight).max() / 127


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    graph = capture(write_source(tmp_path / "source"), dtype=torch.float32)
    fields, _ = read(Gguf().export(graph, tmp_path / "out")[0])
    vocabulary = json.loads((tmp_path / "source" / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = fields["tokenizer.ggml.tokens"]
    assert len(tokens) == 300
    assert all(tokens[id] == text for text, id in vocabulary.items())
    assert fields["tokenizer.ggml.model"] == "gpt2"
    assert fields["tokenizer.ggml.merges"]
    assert "message" in fields["tokenizer.chat_template"]


def test_stretched_rotations_are_those_of_transformers() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "llama3", "rope_theta": 10000.0, **ROPES["llama3"]}
    config = transformers.LlamaConfig(**{**SHAPE, **HEADS, "rope_parameters": rope})
    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 10000.0 ** -(torch.arange(0, 16, 2).float() / 16)
    torch.testing.assert_close(plain / llama3_factors(rope, 16), wanted)


@pytest.mark.parametrize(
    ("name", "match"), [("gpt2", "none of them"), ("qwen3", "none of them"), ("bert", "none of them")]
)
def test_other_architectures_are_refused(name: str, match: str) -> None:
    with pytest.raises(ExportError, match=match):
        read_shape(family(name))


def test_what_llama_cpp_cannot_compute_is_refused(dense: Graph, tmp_path: Path) -> None:
    pairs = [group for group in analyze(dense).prunable() if group.kind == "head_dim"]
    with pytest.raises(ExportError, match="head_dim"):
        read_shape(apply(dense, Plan({group.id: tuple(range(group.units // 2)) for group in pairs})))
    with pytest.raises(ExportError, match=r"no place for .*bias"):
        read_shape(apply(dense, Plan(edits=(Edit("bias", "model.layers.0.mlp.down_proj.weight"),))))
    with pytest.raises(ExportError, match="is left"):
        read_shape(drop(dense, 0, 2, 4))
    wide = next(group for group in analyze(dense).prunable() if group.kind == "residual")
    with pytest.raises(ExportError, match="survivors"):
        read_shape(apply(dense, Plan({wide.id: tuple(range(60))}, statistics="exact")))
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 128}
    stretched = make(tmp_path, rope_parameters=rope)
    with pytest.raises(ExportError, match="yarn"):
        read_shape(stretched)
    with pytest.raises(UsageError, match="precision"):
        Gguf(precision="int4")  # type: ignore[arg-type]


def test_a_tokenizer_that_llama_cpp_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="pre="):
        splitting({"type": "Split", "pattern": {"Regex": r"\d"}})
    graph = capture(write_source(tmp_path / "source"), dtype=torch.float32)
    path = tmp_path / "source" / "tokenizer.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"pre_tokenizer": None}))
    with pytest.raises(ExportError, match="every byte"):
        Gguf().export(graph, tmp_path / "out")
    path.write_text(json.dumps(data | {"model": {**data["model"], "type": "Unigram"}}))
    with pytest.raises(ExportError, match="Unigram"):
        Gguf().export(graph, tmp_path / "out")


def check(graph: Graph, folder: Path, **options: Any) -> dict[str, comparison.Check]:
    Gguf(**options).export(graph, folder)
    parity.save_reference(graph, folder)
    found = {entry.name: entry for entry in parity.check(folder)}
    assert {entry.artefact for entry in found.values()} == {"gguf"}
    assert all(entry.passed for entry in found.values()), found
    return found


@needs_llama
@pytest.mark.parametrize("shape", ["dense", "equal", "unequal", "no attention", "no mlp", "no layer"])
def test_llama_cpp_computes_the_same(dense: Graph, tmp_path: Path, shape: str) -> None:
    small = {
        "dense": lambda: dense,
        "equal": lambda: cut(dense, "mlp", "attention", "residual"),
        "unequal": lambda: cut(dense, "mlp", "residual", unequal=True),
        "no attention": lambda: drop(dense, 2),
        "no mlp": lambda: drop(dense, 3),
        "no layer": lambda: drop(dense, 2, 3),
    }[shape]()
    found = check(small, tmp_path, precision="f32")
    assert found["greedy tokens"].detail == "64 of 64 tokens equal"


@needs_llama
@pytest.mark.parametrize("kind", ["llama3", "linear"])
def test_llama_cpp_rotates_the_same(tmp_path: Path, kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 10000.0, **ROPES[kind]}
    source = make(tmp_path / "source", rope_parameters=rope, tie_word_embeddings=True)
    check(source, tmp_path / "out", precision="f32")


@needs_llama
def test_llama_cpp_finds_a_wrong_weight(dense: Graph, tmp_path: Path) -> None:
    Gguf().export(dense, tmp_path)
    weight = dense.parameters()["model.layers.1.self_attn.q_proj.weight"]
    wrong = dense.with_tensors({"model.layers.1.self_attn.q_proj.weight": torch.nn.Parameter(weight.roll(1, 0))})
    parity.save_reference(replace(wrong), tmp_path)
    assert not all(entry.passed for entry in parity.check(tmp_path) if entry.name != "greedy tokens")
