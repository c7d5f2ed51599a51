"""The generic class has the layers that tools change: what replaces, grows or adds to one is what runs."""

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from graphprune.backends.huggingface.backend import HuggingFace
from graphprune.frontend.source import capture
from graphprune.generic.modeling_graphprune import GraphpruneForCausalLM
from graphprune.generic.modules_graphprune import find_calls
from graphprune.generic.program_graphprune import Program
from graphprune.ir.graph import Graph
from graphprune.running.inputs import decoder_inputs
from tests.support import zoo
from tests.support.families import families
from tests.support.families import graph as family
from tests.support.tiny_llama import ids

DECODERS = ("llama", "gpt2", "gpt_neox", "mixtral", "gemma2")
QUIET = pytest.mark.filterwarnings("ignore")  # peft says more than it must about models it does not know


def generic(graph: Graph, folder: Path) -> Any:
    HuggingFace(form="generic").export(graph, folder)
    return GraphpruneForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    known: dict[str, Any] = {}

    def model(name: str) -> Any:
        if name not in known:
            known[name] = generic(family(name), tmp_path_factory.mktemp(name))
        return copy.deepcopy(known[name])

    return model


def logits(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens).logits  # type: ignore[no-any-return]


def layers(model: nn.Module, *kinds: type[nn.Module]) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


@pytest.mark.parametrize("name", families(DECODERS))
def test_every_linear_call_on_weights_of_its_own_is_a_layer(name: str, models: Any) -> None:
    model, graph = models(name), family(name)
    tokens = ids(2, 9)
    with torch.no_grad():
        torch.testing.assert_close(logits(model, tokens), graph(*decoder_inputs(graph, tokens))[0])
    calls = [n for n in graph.nodes if n.target in (torch.ops.aten.linear.default, torch.ops.aten.addmm.default)]
    read = {str(a.target) for n in calls for a in n.all_input_nodes if a.op == "get_attr" and "weight" in str(a.target)}
    looked_up = {str(n.args[0].target) for n in graph.nodes if n.target is torch.ops.aten.embedding.default}
    assert {f"{each}.weight" for each in layers(model, nn.Linear, Conv1D)} == read - looked_up
    assert {f"{each}.weight" for each in layers(model, nn.Embedding)} == looked_up
    assert model.get_input_embeddings() is model.get_submodule(layers(model, nn.Embedding)[0])
    tied = any(name in looked_up for name in read)
    assert (model.get_output_embeddings() is None) == tied


@QUIET
@pytest.mark.parametrize("name", families(("llama", "gpt2")))
def test_an_adapter_learns_is_merged_and_is_read_again(name: str, models: Any, tmp_path: Path) -> None:
    model, tokens = models(name), ids(2, 9)
    before = logits(model, tokens)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", r=2, init_lora_weights=True))
    torch.testing.assert_close(logits(adapted, tokens), before)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = adapted(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    learned = logits(adapted, tokens)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(models(name), tmp_path).eval()
    torch.testing.assert_close(logits(again, tokens), learned, rtol=1e-4, atol=1e-4)
    merged = again.merge_and_unload()
    assert isinstance(merged, GraphpruneForCausalLM)
    torch.testing.assert_close(logits(merged, tokens), learned, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", families(("llama", "gpt2", "gemma2")))
def test_new_tokens_grow_the_embedding_and_are_stored(name: str, models: Any, tmp_path: Path) -> None:
    model, tokens = models(name), ids(1, 6)
    before, count = logits(model, tokens), model.config.vocab_size
    model.resize_token_embeddings(count + 3, mean_resizing=False)
    grown = logits(model, tokens)
    assert grown.shape[-1] == count + 3
    torch.testing.assert_close(grown[..., :count], before)
    new = torch.tensor([[count, count + 2]])
    model.save_pretrained(tmp_path)
    again = GraphpruneForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(again, new), logits(model, new))
    graph = capture(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(graph(*decoder_inputs(graph, new))[0], logits(model, new))


class Rounded(nn.Linear):
    """A layer of another class, as quantisers put them in place: weights in 8 bits, one scale a row."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None)
        self.scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((layer.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


@pytest.mark.xdist_group("llama")
def test_a_layer_put_in_place_of_another_is_what_runs(models: Any) -> None:
    model, tokens = models("llama"), ids(2, 9)
    before = logits(model, tokens)
    for name in layers(model, nn.Linear):
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, Rounded(model.get_submodule(name)))
    after = logits(model, tokens)
    assert 0 < (after - before).abs().max() < 0.05 * before.abs().max()


@pytest.mark.xdist_group("llama")
def test_torchao_rounds_every_layer(models: Any) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    model, tokens = models("llama"), ids(2, 9)
    before = logits(model, tokens)
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    changed = [name for name in layers(model, nn.Linear) if type(model.get_submodule(name).weight) is not nn.Parameter]
    assert changed == layers(model, nn.Linear)
    assert 0 < (logits(model, tokens) - before).abs().max() < 0.1 * before.abs().max()


@pytest.mark.xdist_group("llama")
def test_bitsandbytes_loads_every_layer_in_4_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import BitsAndBytesConfig

    wide = zoo.llama(hidden_size=64, intermediate_size=128)  # blocks of 64 weights have one scale
    wanted = generic(capture(wide.eval()), tmp_path)
    model = GraphpruneForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True), device_map="cpu", dtype=torch.float32
    )
    small = {name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}
    assert small == set(layers(wanted, nn.Linear)) - {"lm_head"}
    tokens = ids(2, 9)
    assert 0 < (logits(model, tokens) - logits(wanted, tokens)).abs().max() < logits(wanted, tokens).abs().max()


def calls_of(*nodes: list[Any], tensors: dict[str, list[Any]], returned: int = -1) -> dict[int, str]:
    """What is found in a graph of these nodes, of which one is returned."""
    graph = {"inputs": [["x"]], "outputs": [["y", returned % len(nodes)]], "nodes": list(nodes)}
    return find_calls(Program(graph), tensors)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, {3: "a"}),
        ({"last": ["aten.mul.Tensor", [{"node": 3}, {"node": 1}], {}]}, {}),
        ({"last": ["aten.linear.default", [{"node": 3}, {"node": 1}], {}]}, {}),
        ({"last": ["aten.linear.default", [{"node": 3}, {"node": 1}, {"node": 2}], {}]}, {3: "a", 4: "a"}),
        ({"returned": 1}, {}),
        ({"tensors": {"a.weight": ["float32", [4, 4], False], "a.bias": ["float32", [4], True]}}, {}),
        ({"tensors": {"a.weight": ["int64", [4, 4], True], "a.bias": ["int64", [4], True]}}, {}),
        ({"tensors": {"a.weight": ["float32", [4, 4], True], "a.bias": ["float32", [4, 1], True]}}, {}),
        ({"tensors": {n: ["float32", [4] * k, True] for n, k in (("a.weight", 2), ("a.bias", 1), ("a.gate", 1))}}, {}),
    ],
)
def test_a_layer_stands_for_calls_only_where_it_can_stand_for_all(change: Any, found: dict[int, str]) -> None:
    nodes = [["input", "x"], ["tensor", "a.weight"], ["tensor", "a.bias"]]
    nodes.append(["aten.linear.default", [{"node": 0}, {"node": 1}, {"node": 2}], {}])
    nodes += [change["last"]] if "last" in change else []
    plain = {"a.weight": ["float32", [4, 4], True], "a.bias": ["float32", [4], True]}
    assert calls_of(*nodes, tensors=change.get("tensors", plain), returned=change.get("returned", -1)) == found
