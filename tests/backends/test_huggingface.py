"""The huggingface backend: stock and generic checkpoints, loaded back, equal to the graph."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn

from graphprune.analysis.analyse import analyze
from graphprune.backends.huggingface.backend import HuggingFace
from graphprune.backends.huggingface.stock_configs import is_expressible, stock_config
from graphprune.errors import ExportError, SourceError
from graphprune.frontend.generic_checkpoint import read_generic
from graphprune.frontend.source import capture
from graphprune.generic.auto_classes import register
from graphprune.generic.modeling_graphprune import GraphpruneConfig
from graphprune.generic.program_graphprune import pack, unpack
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from graphprune.running.observations import greedy
from graphprune.running.runners import graph_runner
from tests.support import zoo

register()
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 10, "pad_token_id": 0, "eos_token_id": None}

GENERIC = GraphpruneConfig.model_type


def tiny_llama(**options: Any) -> Any:
    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96, "rope_theta": 5000.0}
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **heads, **options})).eval()


def unequal_llama() -> Any:
    """One MLP narrower than the configuration says."""
    model = tiny_llama()
    mlp = model.model.layers[1].mlp
    mlp.gate_proj, mlp.up_proj = nn.Linear(32, 20, bias=False), nn.Linear(32, 20, bias=False)
    mlp.down_proj = nn.Linear(20, 32, bias=False)
    return model


def tiny_gpt2() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)).eval()


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source folder with files that have to travel byte for byte."""
    folder = tmp_path_factory.mktemp("source")
    tiny_llama().save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(b'{"version": "1.0",\r\n  "odd": "\xc3\xa9"}')
    (folder / "chat_template.jinja").write_bytes(b"{{ messages }}\n\n")
    (folder / "LICENSE").write_bytes(b"Apache-2.0")
    (folder / "optimizer.bin").write_bytes(b"not copied")
    return folder


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> Graph:
    return capture(llama_folder)


@pytest.fixture(scope="session")
def unequal() -> Graph:
    return capture(unequal_llama())


@pytest.fixture(scope="session")
def gpt2() -> Graph:
    return capture(tiny_gpt2())


@pytest.fixture(scope="session")
def unequal_folder(unequal: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unequal")
    HuggingFace().export(unequal, folder)
    return folder


def load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def logits_of(graph: Graph, ids: Tensor) -> Tensor:
    return graph_runner(graph)(ids, torch.ones_like(ids), torch.arange(ids.shape[1]).repeat(len(ids), 1), None)[0]


def prompts(batch: int = 2, length: int = 7) -> Tensor:
    return torch.randint(3, 128, (batch, length), generator=torch.Generator().manual_seed(3))


def test_an_unpruned_model_becomes_a_stock_checkpoint(llama: Graph, llama_folder: Path, tmp_path: Path) -> None:
    files = HuggingFace().export(llama, tmp_path)
    assert {f.name for f in files} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "LICENSE"
    }  # fmt: skip
    model = load(tmp_path)
    assert type(model) is transformers.LlamaForCausalLM
    torch.testing.assert_close(model(prompts()).logits, logits_of(llama, prompts()), atol=1e-5, rtol=0)
    for name in ("tokenizer.json", "chat_template.jinja", "LICENSE", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (llama_folder / name).read_bytes()


def test_config_is_written_in_both_spellings(llama: Graph, tmp_path: Path) -> None:
    HuggingFace().export(llama, tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    assert data["rope_parameters"]["rope_theta"] == data["rope_theta"] == 5000.0
    assert data["dtype"] == data["torch_dtype"] == "float32"
    assert data["head_dim"] == 8
    assert transformers.AutoConfig.from_pretrained(tmp_path).rope_parameters["rope_theta"] == 5000.0


def test_equal_narrower_layers_are_found_as_a_stock_configuration(tmp_path: Path) -> None:
    narrow = capture(tiny_llama(intermediate_size=30, num_attention_heads=2, num_key_value_heads=1, head_dim=8))
    wide = tiny_llama().config
    graph = replace_config(narrow, wide)
    config = stock_config(graph)
    assert (config.intermediate_size, config.head_dim) == (30, 8)
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)
    HuggingFace().export(graph, tmp_path)
    torch.testing.assert_close(load(tmp_path)(prompts()).logits, logits_of(graph, prompts()), atol=1e-5, rtol=0)


def replace_config(graph: Graph, config: Any) -> Graph:
    return replace(graph, source=replace(graph.source, config=config))


def test_equal_shapes_with_another_function_are_not_taken_for_stock(llama: Graph, tmp_path: Path) -> None:
    changed = llama.fork()
    attention = next(n for n in changed.nodes if n.target is torch.ops.aten.scaled_dot_product_attention.default)
    attention.update_kwarg("scale", 0.9)
    changed.module.recompile()
    HuggingFace().export(changed, tmp_path)
    model = load(tmp_path)
    assert model.config.model_type == GENERIC
    torch.testing.assert_close(model(prompts()).logits, logits_of(changed, prompts()), atol=1e-5, rtol=0)
    with pytest.raises(ExportError, match="no configuration of LlamaForCausalLM fits"):
        HuggingFace(form="stock").export(changed, tmp_path)


def test_unequal_layers_take_the_generic_form(unequal: Graph, unequal_folder: Path) -> None:
    model = load(unequal_folder)
    assert model.config.model_type == GENERIC
    assert model.config.vocab_size == 128
    assert set(model.state_dict()) == {*unequal.tensors()}
    torch.testing.assert_close(model(prompts()).logits, logits_of(unequal, prompts()), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [{}, {"cache_implementation": "static"}, {"num_beams": 3}, {"use_cache": False}],
    ids=["dynamic", "static", "beam", "none"],
)
def test_the_generic_form_generates_what_the_source_generates(unequal_folder: Path, options: dict[str, Any]) -> None:
    mask = torch.ones_like(prompts())
    mask[0, :3] = 0
    expected = unequal_llama().generate(prompts(), attention_mask=mask, **GREEDY, **options)
    found = load(unequal_folder).generate(prompts(), attention_mask=mask, **GREEDY, **options)
    assert torch.equal(expected, found)


def test_gpt2_with_tied_embeddings_in_the_generic_form(gpt2: Graph, tmp_path: Path) -> None:
    HuggingFace(form="generic").export(gpt2, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tokenizer_class"] == "GPT2Tokenizer"
    model, source = load(tmp_path), tiny_gpt2()
    torch.testing.assert_close(model(prompts()).logits, source(prompts()).logits, atol=1e-5, rtol=0)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in source.parameters())
    assert torch.equal(model.generate(prompts(), **GREEDY), source.generate(prompts(), **GREEDY))


def test_gpt2_is_stock_as_it_is(gpt2: Graph, tmp_path: Path) -> None:
    HuggingFace(form="stock").export(gpt2, tmp_path)
    torch.testing.assert_close(load(tmp_path)(prompts()).logits, logits_of(gpt2, prompts()), atol=1e-5, rtol=0)


def test_a_generic_model_is_saved_and_loaded_again(unequal_folder: Path, tmp_path: Path) -> None:
    model = load(unequal_folder)
    model.save_pretrained(tmp_path)
    code = "modeling_graphprune.py"
    assert (tmp_path / code).read_bytes() == (unequal_folder / code).read_bytes()
    names = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert names["AutoModelForCausalLM"] == "modeling_graphprune.GraphpruneForCausalLM"
    assert torch.equal(load(tmp_path)(prompts()).logits, model(prompts()).logits)


def test_the_graph_of_a_generic_checkpoint_is_read_back_and_exported_again(
    unequal: Graph, unequal_folder: Path, tmp_path: Path
) -> None:
    again = read_generic(unequal_folder)
    assert str(again) == str(unequal)
    assert [cleanup.name for cleanup in again.cleanups] == ["read"]
    assert torch.equal(logits_of(again, prompts()), logits_of(unequal, prompts()))
    HuggingFace().export(again, tmp_path)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (unequal_folder / name).read_bytes()
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(SourceError, match="no readable generic checkpoint"):
        read_generic(tmp_path)


def test_gradients_reach_every_parameter_of_a_generic_model(unequal_folder: Path) -> None:
    model, source = load(unequal_folder).train(), unequal_llama()
    loss = model(prompts(), labels=prompts()).loss
    loss.backward()
    source(prompts(), labels=prompts()).loss.backward()
    gradients = {name: parameter.grad for name, parameter in source.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_generic_model_runs_in_another_precision(unequal_folder: Path, dtype: torch.dtype) -> None:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(unequal_folder, dtype=dtype)
    assert model.get_parameter("model.layers.0.mlp.up_proj.weight").dtype == dtype
    wanted, found = load(unequal_folder)(prompts()).logits, model(prompts()).logits.float()
    torch.testing.assert_close(found, wanted, atol=2e-2 if dtype == torch.bfloat16 else 1e-5, rtol=0)
    assert model.generate(prompts(), **GREEDY, cache_implementation="static").shape == (2, 17)


@pytest.mark.parametrize(
    "name", ["aten.from_file.default", "aten.add_.Tensor", "operator.attrgetter", "os.system", "aten.linear"]
)
def test_a_tampered_operator_is_refused(unequal_folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(unequal_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    graph = unpack(config["graph"])
    graph["nodes"][-1][0] = name
    (tmp_path / "config.json").write_text(json.dumps({**config, "graph": pack(graph)}))
    with pytest.raises(ValueError, match="not allowed"):
        load(tmp_path)


def test_large_weights_are_sharded(unequal: Graph, tmp_path: Path) -> None:
    HuggingFace(shard_bytes=20_000).export(unequal, tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert not (tmp_path / "model.safetensors").exists()
    with safe_open(tmp_path / sorted(set(index["weight_map"].values()))[0], "pt") as file:
        assert file.metadata() == {"format": "pt"}
    torch.testing.assert_close(load(tmp_path)(prompts()).logits, logits_of(unequal, prompts()), atol=1e-5, rtol=0)


def test_wrong_inputs_are_explained(unequal_folder: Path) -> None:
    model = load(unequal_folder)
    with pytest.raises(ValueError, match="inputs_embeds are not supported"):
        model(inputs_embeds=torch.zeros(1, 2, 32))
    with pytest.raises(ValueError, match="attention mask of shape"):
        model(prompts(), attention_mask=torch.ones(2, 1, 7, 7))
    sliding = transformers.DynamicCache(config=transformers.MistralConfig(num_hidden_layers=2, sliding_window=4))
    with pytest.raises(ValueError, match="made with its own configuration"):
        model(prompts(), past_key_values=sliding)


def test_meta_weights_are_refused(tmp_path: Path, llama: Graph) -> None:
    empty = llama.with_tensors({n: t.to("meta") for n, t in llama.tensors().items()})
    with pytest.raises(ExportError, match="has no weights"):
        HuggingFace().export(empty, tmp_path / "out")
    assert not (tmp_path / "out").exists()


FAMILIES = [
    ("llama", {"intermediate_size": 30, "hidden_size": 24}),
    ("llama", {"num_hidden_layers": 1, "intermediate_size": 30}),
    ("qwen3", {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 10, "hidden_size": 28}),
    ("phi3", {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 30}),
    ("gpt2", {"n_inner": 100, "n_embd": 24}),
    ("mixtral", {"num_local_experts": 3, "intermediate_size": 20}),
    ("bert", {"hidden_size": 24, "intermediate_size": 20}),
]


@pytest.mark.parametrize(("family", "changes"), FAMILIES)
def test_uniform_widths_are_expressible_by_search(family: str, changes: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = zoo.FAMILIES[family]()
        wanted = type(model.config).from_dict({**model.config.to_dict(), **changes})
        narrow = type(model)(wanted)
    shapes = {n: tuple(t.shape) for n, t in [*narrow.named_parameters(), *narrow.named_buffers()]}
    found = is_expressible(model.config, shapes, type(model).__name__)
    assert {name: getattr(found, name) for name in changes} == changes


def test_unequal_or_partly_dropped_layers_are_not_expressible() -> None:
    model = tiny_llama()
    shapes = {n: tuple(t.shape) for n, t in model.named_parameters()}
    unequal = {n: tuple(t.shape) for n, t in unequal_llama().named_parameters()}
    dropped = {n: s for n, s in shapes.items() if not n.startswith("model.layers.1.mlp.")}
    assert is_expressible(model.config, shapes, "LlamaForCausalLM") is not None
    assert is_expressible(model.config, unequal, "LlamaForCausalLM") is None
    assert is_expressible(model.config, dropped, "LlamaForCausalLM") is None


def test_a_plan_with_unequal_widths_and_a_dropped_branch_survives(llama: Graph, tmp_path: Path) -> None:
    groups = analyze(llama)
    mlp = [group for group in groups.groups if group.kind == "mlp"]
    heads = [group for group in groups.groups if group.kind == "attention"]
    branch = next(b for b in groups.branches if b.caches)
    keep = {mlp[0].id: tuple(range(7)), mlp[1].id: tuple(range(1, 40)), heads[-1].id: (1,)}
    pruned = apply(llama, Plan(keep, (branch.id,)))
    HuggingFace().export(pruned, tmp_path)
    model = load(tmp_path)
    assert model.config.model_type == GENERIC
    assert model.config.num_hidden_layers == 1  # one layer is left that has a cache
    torch.testing.assert_close(model(prompts()).logits, logits_of(pruned, prompts()), atol=1e-5, rtol=0)
    tokens, _ = greedy(graph_runner(pruned), prompts(1), 10)
    for options in ({}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(prompts(1), **GREEDY, **options)[0, 7:], tokens)


def test_a_uniform_plan_becomes_a_stock_checkpoint(llama: Graph, tmp_path: Path) -> None:
    groups = analyze(llama)
    keep = {g.id: tuple(range(2, 30)) for g in groups.groups if g.kind == "mlp"}
    keep |= {g.id: (1,) for g in groups.groups if g.kind == "attention"}
    pruned = apply(llama, Plan(keep))
    HuggingFace(form="stock").export(pruned, tmp_path)
    model = load(tmp_path)
    assert type(model) is transformers.LlamaForCausalLM
    assert (model.config.intermediate_size, model.config.num_key_value_heads) == (28, 1)
    torch.testing.assert_close(model(prompts()).logits, logits_of(pruned, prompts()), atol=1e-5, rtol=0)


def test_dropping_a_whole_layer_gives_a_shallower_stock_checkpoint(llama: Graph, tmp_path: Path) -> None:
    dropped = tuple(b.id for b in analyze(llama).branches if ".0." in b.id)
    pruned = apply(llama, Plan({}, dropped))
    HuggingFace(form="stock").export(pruned, tmp_path)
    model = load(tmp_path)
    assert model.config.num_hidden_layers == 1
    torch.testing.assert_close(model(prompts()).logits, logits_of(pruned, prompts()), atol=1e-5, rtol=0)
