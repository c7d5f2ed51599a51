"""Forms with sizes for each layer: what other runtimes' classes make of them is what the graph computes.

The classes of vLLM, SGLang and mlx-lm are not installed here; tests/support/loaders.py has what they do.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from graphprune import Graph, Plan, analyze, apply, capture
from graphprune.backends.layered.decilm import DeciLm
from graphprune.backends.layered.loaders import channels_of, divisible, tensors_asked_for
from graphprune.backends.layered.openelm import OpenElm
from graphprune.backends.layered.writing import Form, require_asked_for
from graphprune.errors import ExportError
from graphprune.running.perplexity import graph_logits
from tests.support.loaders import decilm_logits, openelm_logits, read

SHAPE = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 512, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8, "max_position_embeddings": 256}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
IDS = torch.randint(0, 300, (1, 24), generator=torch.Generator().manual_seed(1))


def make(folder: Path, kind: str = "Llama", **changes: Any) -> Graph:
    """A model of four layers whose weights are large enough to tell one wrong head."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **HEADS, **changes})
    model: Any = getattr(transformers, f"{kind}ForCausalLM")(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, float(parameter.ndim == 1), 0.3 if parameter.ndim > 1 else 0.2)
    model.save_pretrained(folder)
    return capture(folder)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return make(tmp_path_factory.mktemp("llama"))


def cut(graph: Graph, step: int = 1, heads: bool = True, drop: tuple[int, ...] = ()) -> Graph:
    """Layers with other numbers of channels, by steps, and of heads where they may differ, without some branches."""
    keep = {}
    for kind in ("mlp", "attention", "residual"):
        for at, group in enumerate(group for group in analyze(graph).prunable() if group.kind == kind):
            fewer = {"mlp": step * (at % 2 if step > 1 else at + 1), "attention": 1 + at % 2 * heads, "residual": 8}
            keep[group.id] = tuple(range(group.units - fewer[kind]))
    branches = analyze(graph).branches
    return apply(graph, Plan(keep, tuple(branches[place].id for place in drop)))


def logits(graph: Graph) -> torch.Tensor:
    return graph_logits(graph)(IDS)[0]


def test_decilm_computes_what_the_graph_does(dense: Graph, tmp_path: Path) -> None:
    small = cut(dense, heads=False, drop=(2, 5))  # attention of one layer, the MLP of another
    DeciLm().export(small, tmp_path)
    torch.testing.assert_close(decilm_logits(tmp_path / "decilm", IDS[0]), logits(small), rtol=1e-4, atol=1e-4)
    config, _ = read(tmp_path / "decilm")
    assert config["architectures"] == ["DeciLMForCausalLM"]
    assert config["model_type"] == "nemotron-nas"
    assert [block["attention"]["no_op"] for block in config["block_configs"]] == [False, True, False, False]
    assert [block["ffn"]["no_op"] for block in config["block_configs"]] == [False, False, True, False]
    assert all("ffn_mult" not in block["ffn"] for block in config["block_configs"]), "vLLM takes it before the size"


def test_the_configuration_is_read_by_attribute(dense: Graph, tmp_path: Path) -> None:
    """As vLLM and SGLang read it: through AutoConfig, with the code beside the weights."""
    small = cut(dense, heads=False)
    DeciLm().export(small, tmp_path)
    config: Any = transformers.AutoConfig.from_pretrained(tmp_path / "decilm", trust_remote_code=True)
    first = config.block_configs[0]
    assert (first.attention.no_op, first.attention.n_heads_in_group) == (False, 2)
    assert first.ffn.intermediate_size == 511
    assert not hasattr(first.ffn, "ffn_mult")
    assert (config.head_dim, config.num_attention_heads, config.hidden_size) == (8, 6, 56)
    assert config.rope_theta == 10000.0
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    found = decilm_logits(tmp_path / "decilm", IDS[0], config.block_configs)
    torch.testing.assert_close(found, logits(small), rtol=1e-4, atol=1e-4)
    config.save_pretrained(tmp_path / "again")
    again: Any = transformers.AutoConfig.from_pretrained(tmp_path / "decilm", trust_remote_code=True)
    assert (
        again.to_dict()["block_configs"]
        == json.loads((tmp_path / "again" / "config.json").read_text())["block_configs"]
    )


def test_multiples_of_256_are_said_as_sglang_reads_them(dense: Graph, tmp_path: Path) -> None:
    small = cut(dense, step=256, heads=False)
    DeciLm(multiple=256).export(small, tmp_path)
    config, _ = read(tmp_path / "decilm")
    assert [set(block["ffn"]) for block in config["block_configs"]] == [{"no_op", "ffn_mult"}] * 4
    assert {channels_of(block["ffn"], 56) for block in config["block_configs"]} == {256, 512}
    torch.testing.assert_close(decilm_logits(tmp_path / "decilm", IDS[0]), logits(small), rtol=1e-4, atol=1e-4)
    with pytest.raises(ExportError, match=r"layer 0 has 511 channels, no multiple of 256; cut with --for sglang"):
        DeciLm(multiple=256).export(cut(dense, heads=False), tmp_path)


@pytest.mark.parametrize("width", [48, 56, 192, 576, 2048, 3072, 4095, 8192])
def test_every_multiple_of_256_survives_ffn_mult(width: int) -> None:
    for count in range(256, 32768, 256):
        said = 1.5 * count / width
        assert channels_of({"ffn_mult": said}, width) == count
        assert channels_of({"ffn_mult": round(said, 6)}, width) == count, "mlx-lm rounds it"


def test_openelm_computes_what_the_graph_does(dense: Graph, tmp_path: Path) -> None:
    small = cut(dense, drop=(2, 5))
    OpenElm().export(small, tmp_path)
    torch.testing.assert_close(openelm_logits(tmp_path / "openelm", IDS[0]), logits(small), rtol=1e-4, atol=1e-4)
    config, _ = read(tmp_path / "openelm")
    assert config["num_query_heads"] == [6, 1, 6, 4]
    assert config["num_kv_heads"] == [3, 1, 3, 2]


@pytest.mark.parametrize("width", [7, 56, 192, 576, 4096])
def test_every_width_survives_ffn_multipliers(width: int) -> None:
    assert all(divisible(count / width * width, 1) == count for count in range(1, 20000))


def test_models_with_other_parts(tmp_path: Path) -> None:
    """Scaled rotations, biases on queries, keys and values, norms of heads, an untied head."""
    stretched = make(tmp_path / "a", rope_parameters=LLAMA3, tie_word_embeddings=False)
    biased, normed = make(tmp_path / "b", "Qwen2"), make(tmp_path / "c", "Qwen3", tie_word_embeddings=True)
    for graph, name in ((stretched, "stretched"), (biased, "biased")):
        small = cut(graph, heads=False, drop=(3,))
        DeciLm().export(small, tmp_path / name)
        found = decilm_logits(tmp_path / name / "decilm", IDS[0])
        torch.testing.assert_close(found, logits(small), rtol=1e-4, atol=1e-4)
    small = cut(normed, drop=(2,))
    OpenElm().export(small, tmp_path / "normed")
    torch.testing.assert_close(
        openelm_logits(tmp_path / "normed" / "openelm", IDS[0]), logits(small), rtol=1e-4, atol=1e-4
    )
    with pytest.raises(
        ExportError, match=r"openelm has no rotary embeddings of type llama3; for mlx cut with --uniform"
    ):
        OpenElm().require_source(stretched)
    with pytest.raises(ExportError, match="Qwen2ForCausalLM is none of them"):
        OpenElm().require_source(biased)
    with pytest.raises(ExportError, match="SGLang too, which has no bias on queries alone"):
        DeciLm(multiple=256).require_source(biased)
    with pytest.raises(ExportError, match="Qwen3ForCausalLM is none of them"):
        DeciLm().require_source(normed)


def test_what_has_no_place_is_named(dense: Graph, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"one number of query heads for all layers, and here are 4 to 6; cut with"):
        DeciLm().export(cut(dense), tmp_path)
    with pytest.raises(ExportError, match="attention in the first layer that is left"):
        DeciLm().export(cut(dense, heads=False, drop=(0,)), tmp_path)
    with pytest.raises(ExportError, match="openelm needs attention in some layer"):
        OpenElm().export(cut(dense, drop=(0, 2, 4, 6)), tmp_path)
    narrow = [group for group in analyze(dense).prunable() if group.kind == "head_dim"]
    flat = apply(dense, Plan({group.id: tuple(range(group.units - 1)) for group in narrow}))
    with pytest.raises(ExportError, match="heads of one size, 8 here; prune no head_dim"):
        OpenElm().export(flat, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_tensor_that_the_loader_does_not_make_is_refused(dense: Graph, tmp_path: Path) -> None:
    DeciLm().export(cut(dense, heads=False), tmp_path)
    config, tensors = read(tmp_path / "decilm")
    asked = tensors_asked_for(config)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == asked
    with pytest.raises(ExportError, match="nemotron-nas has no place for other"):
        require_asked_for(Form(config, tensors | {"other": torch.ones(1)}))
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(ExportError, match=rf"asks for {name} \[510, 56\], and it is absent"):
        require_asked_for(Form(config, {key: tensor for key, tensor in tensors.items() if key != name}))
