"""Ways of running a model: one module for each layer where they are wanted, and the same values in each."""

import pytest
import torch

from graphprune.running.inputs import decoder_inputs
from graphprune.training.execution.runner import Checkpointed
from graphprune.training.execution.way import Way, in_layers, run_by
from tests.support.tiny_llama import ids, tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")


def test_without_wishes_the_module_is_the_graphs_own() -> None:
    graph = tiny_graph()
    assert run_by(graph, "logits", Way()) is graph.module
    assert isinstance(run_by(graph, "logits", Way("selective")), Checkpointed)


@pytest.mark.parametrize("checkpoint", ["off", "selective", "full"])
def test_layers_apart_give_the_same_bits(checkpoint: str) -> None:
    graph = tiny_graph()
    result, layers = in_layers(graph, "logits", Way(checkpoint, spread=True))  # type: ignore[arg-type]
    assert len(layers) == 2
    assert [isinstance(layer, Checkpointed) for layer in layers] == [checkpoint != "off"] * 2
    inside = [module for module in result.module.modules() if module in layers]
    assert len(inside) == 2
    inputs, parameters = decoder_inputs(graph, ids(2, 7)), list(graph.parameters().values())
    found, wanted = result(*inputs)[0], graph(*inputs)[graph.outputs.index("logits")]
    assert torch.equal(found, wanted)
    ours, theirs = (torch.autograd.grad(each.square().sum(), parameters) for each in (found, wanted))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
