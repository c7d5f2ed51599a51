"""The ONNX backend: what it writes computes what the graph computes, under the contract names."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx

from graphprune.backends.onnx.backend import Onnx
from graphprune.backends.onnx.types import float_copy
from graphprune.backends.runtime.runner import load
from graphprune.errors import ExportError
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.operators import remove_dead
from graphprune.ir.types import TensorType
from tests.support.tiny_llama import CONFIG, tiny_graph
from tests.support.zoo import build, llama


def open_model(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / "onnx" / "model.onnx", load_external_data=False)


def dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def compare(graph: Graph, folder: Path, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Run graph and artefact on the inputs, assert 1e-4 on every output and position, return the graph's outputs."""
    with torch.no_grad():
        expected = graph(*inputs)
    feeds = {name: tensor.numpy() for name, tensor in zip(graph.inputs, inputs, strict=True)}
    actual = load(folder, "cpu").infer(feeds)
    for name, tensor in zip(graph.outputs, expected, strict=True):
        np.testing.assert_allclose(actual[name], tensor.numpy(), rtol=0, atol=1e-4, err_msg=name)
    return expected


def empty_past(graph: Graph, batch: int) -> list[Tensor]:
    types = [node.meta["value"] for name, node in graph.placeholders.items() if name.startswith("past_key_values.")]
    return [torch.zeros(batch, int(t.shape[1]), 0, int(t.shape[3]), dtype=t.dtype) for t in types]


def decode(graph: Graph, folder: Path, mask: Tensor, steps: int, past: Sequence[Tensor] | None = None) -> None:
    """Compare a prefill of random tokens under this mask, then cached steps of the greedy tokens."""
    ids = torch.randint(3, CONFIG.vocab_size, mask.shape, generator=torch.Generator().manual_seed(1))
    positions = (mask.cumsum(1) - 1).clamp(0)
    logits, *past = compare(graph, folder, ids, mask, positions, *(past or empty_past(graph, len(mask))))
    for _ in range(steps):
        mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=torch.long)], dim=1)
        positions = positions[:, -1:] + 1
        logits, *past = compare(graph, folder, logits[:, -1:].argmax(-1), mask, positions, *past)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    Onnx().export(tiny_graph(), folder)
    return folder


def test_the_model_is_valid_portable_onnx_in_two_files(exported: Path) -> None:
    onnx.checker.check_model(exported / "onnx" / "model.onnx", full_check=True)
    model = open_model(exported)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert model.ir_version >= 10
    assert not model.functions
    assert [entry.key for entry in model.metadata_props] == ["graphprune.version"]
    files = ["genai_config.json", "model.onnx", "model.onnx.data"]
    assert sorted(path.name for path in (exported / "onnx").iterdir()) == files


def test_inputs_and_outputs_follow_the_contract(exported: Path) -> None:
    graph, model = tiny_graph().fork(), open_model(exported)
    inputs = {value.name: dimensions(value) for value in model.graph.input}
    outputs = {value.name: dimensions(value) for value in model.graph.output}
    assert tuple(inputs) == graph.inputs
    assert tuple(outputs) == graph.outputs
    kv, size = CONFIG.num_key_value_heads, CONFIG.head_dim
    assert inputs["input_ids"] == ["batch_size", "sequence_length"]
    assert inputs["attention_mask"] == ["batch_size", "total_sequence_length"]
    assert inputs["past_key_values.1.value"] == ["batch_size", kv, "past_sequence_length", size]
    assert outputs["logits"] == ["batch_size", "sequence_length", CONFIG.vocab_size]
    assert outputs["present.0.key"] == ["batch_size", kv, "total_sequence_length", size]


def test_every_weight_is_written_once_and_large_ones_beside_the_model(exported: Path) -> None:
    graph = tiny_graph()
    weights = {tensor.name: tensor for tensor in open_model(exported).graph.initializer}
    trained = [np.prod(weights[name].dims) for name in graph.parameters()]
    assert sum(trained) == graph.parameter_count()
    shapes = Counter(tuple(t.dims) for t in weights.values())
    assert shapes[CONFIG.vocab_size, CONFIG.hidden_size] == 1  # the head is tied to the embedding
    for tensor in weights.values():
        outside = {entry.key: entry.value for entry in tensor.external_data}
        assert outside.get("location", "model.onnx.data") == "model.onnx.data"
        assert bool(outside) == (4 * int(np.prod(tensor.dims)) > 1024), tensor.name


def test_linear_weights_need_no_transpose_at_load(exported: Path) -> None:
    weights = {tensor.name for tensor in open_model(exported).graph.initializer}
    transposed = [n.input[0] for n in open_model(exported).graph.node if n.op_type == "Transpose"]
    assert weights & set(transposed) == {"model.embed_tokens.weight"}  # read by the embedding too


def test_values_are_named_after_their_module(exported: Path) -> None:
    names = {node.name for node in open_model(exported).graph.node}
    assert any(name.startswith("model.layers.1.mlp.gate_proj/") for name in names)


def test_genai_reads_the_largest_layer_and_the_special_tokens(exported: Path) -> None:
    model = json.loads((exported / "onnx" / "genai_config.json").read_text())["model"]
    decoder = model["decoder"]
    assert (model["type"], model["vocab_size"]) == ("decoder", CONFIG.vocab_size)
    assert (model["eos_token_id"], model["pad_token_id"]) == (CONFIG.eos_token_id, CONFIG.eos_token_id)
    assert (decoder["num_key_value_heads"], decoder["head_size"], decoder["num_hidden_layers"]) == (4, 4, 2)
    assert [decoder["inputs"][name] for name in tiny_graph().inputs[:3]] == list(tiny_graph().inputs[:3])


def test_prefill_and_cached_steps_equal_the_graph(exported: Path) -> None:
    decode(tiny_graph(), exported, torch.ones(1, 6, dtype=torch.long), steps=2)


def test_a_left_padded_batch_equals_the_graph_at_every_position(exported: Path) -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]])
    decode(tiny_graph(), exported, mask, steps=2)


def test_several_tokens_on_a_filled_cache_equal_the_graph(exported: Path) -> None:
    graph, random = tiny_graph(), torch.Generator().manual_seed(2)
    past = [torch.randn(2, t.shape[1], 4, t.shape[3], generator=random) for t in empty_past(graph, 2)]
    ids = torch.randint(3, CONFIG.vocab_size, (2, 3), generator=random)
    compare(graph, exported, ids, torch.ones(2, 7, dtype=torch.long), torch.arange(4, 7).repeat(2, 1), *past)


def test_export_leaves_the_graph_as_it_was(exported: Path, tmp_path: Path) -> None:
    before = str(tiny_graph())
    Onnx().export(tiny_graph(), tmp_path)
    assert str(tiny_graph()) == before
    data = (tmp_path / "onnx" / "model.onnx.data").read_bytes()
    assert data == (exported / "onnx" / "model.onnx.data").read_bytes()


def without_first_attention(graph: Graph) -> Graph:
    """Drop layer 0's attention branch by hand: the residual sum becomes its skip operand, the cache entries go."""
    graph = graph.fork()
    nodes = graph.module.graph
    branch = next(n for n in nodes.nodes if n.meta.get("scope") == "model.layers.0.self_attn.o_proj")
    total = next(iter(branch.users))
    total.replace_all_uses_with(next(node for node in total.all_input_nodes if node is not branch))
    kept = [name for name in graph.outputs if not name.startswith("present.0.")]
    nodes.output_node().args = (tuple(graph.results[name] for name in kept),)
    remove_dead(nodes)
    unused = {name: node for name, node in graph.placeholders.items() if not node.users}
    for node in unused.values():
        nodes.erase_node(node)
    module = fx.GraphModule(dict(graph.tensors()), nodes)
    return replace(graph, module=module, outputs=tuple(kept), inputs=tuple(n for n in graph.inputs if n not in unused))


def test_a_layer_without_attention_has_no_cache_entry(tmp_path: Path) -> None:
    graph = without_first_attention(tiny_graph())
    Onnx().export(graph, tmp_path)
    assert [cache.layer for cache in load(tmp_path, "cpu").caches] == [1, 1]
    decode(graph, tmp_path, torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]]), steps=2)


def test_half_precision_is_written_as_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = capture(llama(num_hidden_layers=1, vocab_size=CONFIG.vocab_size).to(torch.bfloat16).eval())
    Onnx().export(graph, tmp_path)
    model = open_model(tmp_path)
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    assert {t.dtype for t in graph.parameters().values()} == {torch.bfloat16}
    decode(float_copy(graph), tmp_path, torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]), steps=1)


def test_an_encoder_keeps_its_own_names_and_a_free_batch(tmp_path: Path) -> None:
    graph = capture(build("bert"))
    Onnx().export(graph, tmp_path)
    model = load(tmp_path, "cpu")
    assert (model.inputs, model.outputs, model.caches) == (graph.inputs, graph.outputs, ())
    ids = torch.randint(3, 60, (3, 5), generator=torch.Generator().manual_seed(0))
    feeds = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    feeds["attention_mask"][1, 3:] = 0
    compare(graph, tmp_path, *(feeds[name] for name in graph.inputs))


def test_a_plain_module_with_convolutions(tmp_path: Path) -> None:
    graph = capture(build("cnn"), inputs={"image": torch.zeros(2, 3, 8, 8)})
    Onnx().export(graph, tmp_path)
    compare(graph, tmp_path, torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)))


def small_graph(function: object, *arguments: object, dtype: torch.dtype = torch.float32) -> Graph:
    """A graph of one call on one input [2, 3]."""
    nodes = fx.Graph()
    x = nodes.placeholder("x")
    x.meta["value"] = TensorType(dtype, (2, 3))
    call = nodes.call_function(function, (x, *arguments))  # type: ignore[arg-type]
    result = function(torch.ones(2, 3, dtype=dtype), *arguments)  # type: ignore[operator]
    call.meta |= {"value": TensorType(result.dtype, tuple(result.shape)), "scope": "block.0"}
    nodes.output((call,))
    return Graph(fx.GraphModule({}, nodes), ("x",), ("y",))


def test_an_operator_without_translation_is_named(tmp_path: Path) -> None:
    graph = small_graph(torch.ops.aten.special_bessel_j0.default)
    with pytest.raises(ExportError, match=r"aten\.special_bessel_j0\.default \(node \w+ in block\.0\)"):
        Onnx().export(graph, tmp_path)
    assert not list(tmp_path.iterdir())


def test_integers_are_promoted_as_torch_does(tmp_path: Path) -> None:
    for index, target in enumerate((torch.ops.aten.div.Tensor, torch.ops.aten.mul.Tensor, torch.ops.aten.gt.Scalar)):
        graph = small_graph(target, 2.5, dtype=torch.int64)
        Onnx().export(graph, tmp_path / str(index))
        compare(graph, tmp_path / str(index), torch.tensor([[1, 2, 3], [4, -5, 6]]))


def test_a_graph_without_weights_is_refused(tmp_path: Path) -> None:
    graph = tiny_graph().with_tensors({"model.norm.weight": torch.nn.Parameter(torch.empty(32, device="meta"))})
    with pytest.raises(ExportError, match=r"^model\.norm\.weight has no weights: "):
        Onnx().export(graph, tmp_path)


def test_an_old_opset_and_an_unwritable_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="opset 18 is too old"):
        Onnx(opset=18).export(tiny_graph(), tmp_path)
    (tmp_path / "onnx").write_text("a file")
    with pytest.raises(ExportError, match=r"^cannot write .*onnx"):
        Onnx().export(tiny_graph(), tmp_path)


def test_companion_files_are_copied_byte_for_byte(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (source / name).write_bytes(b"\x00" + name.encode())
    graph = small_graph(torch.ops.aten.relu.default)
    graph = replace(graph, source=replace(graph.source, folder=source))
    written = Onnx().export(graph, tmp_path)
    names = ["model.onnx", "model.onnx.data", "config.json", "tokenizer.json"]
    assert [path.name for path in written] == names
    assert (tmp_path / "onnx" / "tokenizer.json").read_bytes() == b"\x00tokenizer.json"
