"""A graph with layers as modules computes what the graph computes, with its tensors under their names."""

from collections.abc import Iterator

import pytest
import torch

from graphprune.ir.graph import Graph
from graphprune.ir.placement import device_of
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import decoder_inputs
from graphprune.training.execution.layer_modules import segmented, source_name
from tests.support import families

DECODERS = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "gpt_neox",
    "opt",
    "bloom",
    "falcon",
    "mixtral",
)
decoder = pytest.mark.parametrize("name", families.families(DECODERS))


def logits(graph: Graph, ids: torch.Tensor) -> torch.Tensor:
    return graph(*decoder_inputs(graph, ids))[graph.outputs.index("logits")]


def layers(name: str) -> int:
    return int(families.graph(name).source.config.get_text_config().num_hidden_layers)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Several threads add up the gradients of rows picked by index (experts) in the order that they come in."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@decoder
@pytest.mark.usefixtures("one_thread")
def test_segments_compute_the_same_logits_and_gradients(name: str) -> None:
    graph = families.graph(name)
    result, modules = segmented(graph)
    ids = torch.randint(20, (2, 7), generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits(result, ids), logits(graph, ids))
    parameters = graph.parameters()
    given = torch.autograd.grad(logits(graph, ids).sum(), list(parameters.values()), allow_unused=True)
    found = torch.autograd.grad(logits(result, ids).sum(), list(parameters.values()), allow_unused=True)
    for one, other in zip(given, found, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    assert len(modules) == layers(name)


@decoder
def test_every_tensor_is_in_one_place_under_its_name(name: str) -> None:
    graph = families.graph(name)
    result, modules = segmented(graph)
    found = {source_name(n): p for n, p in result.module.named_parameters(remove_duplicate=False)}
    wanted = {n: t for n, t in graph.tensors().items() if isinstance(t, torch.nn.Parameter)}
    assert found.keys() == wanted.keys()
    assert all(found[n] is wanted[n] for n in wanted)
    inside = [{id(p) for p in module.parameters()} for module in modules]
    assert all(part for part in inside)
    assert sum(map(len, inside)) == len(set().union(*inside))
    at_root = {id(p) for n, p in result.module.named_parameters() if source_name(n) == n}
    assert not at_root & set().union(*inside)
    assert device_of(result) == device_of(graph)


@pytest.mark.xdist_group("llama")
def test_a_layer_without_one_of_its_branches_is_still_a_layer() -> None:
    graph = families.graph("llama")
    cut = apply(graph, Plan(dropped=("model.layers.0.mlp",)))
    result, modules = segmented(cut)
    assert len(modules) == layers("llama")
    names = [name for name, _ in modules[0].named_parameters()]
    assert not any("mlp" in name for name in names)
    assert any("self_attn" in name for name in names)
    ids = torch.randint(20, (2, 7), generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits(result, ids), logits(cut, ids))
