"""Stock checkpoints are of the graph's own tensors; of the source what the graph never reads alone is read again."""

from collections.abc import Mapping
from typing import Any

import pytest
from torch import Tensor

from graphprune.backends.huggingface import stock_checkpoint
from graphprune.backends.huggingface.stock_checkpoint import by_every_name, stock_models
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from tests.backends.test_huggingface import tiny_gpt2, tiny_llama


@pytest.mark.parametrize("model", [tiny_gpt2(), tiny_llama(tie_word_embeddings=True), tiny_llama()])
def test_a_tied_weight_is_not_read_from_the_source_again(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Mapping[str, object]] = []

    def read(_: Graph, shapes: Mapping[str, object]) -> dict[str, Tensor]:
        asked.append(shapes)
        return {}

    graph = capture(model)
    monkeypatch.setattr(stock_checkpoint, "unread_parameters", read)
    made = next(stock_models(graph))
    assert asked == [{}]
    own = {id(tensor) for tensor in graph.tensors().values()}
    assert all(id(parameter) in own or shares(parameter, graph) for parameter in made.parameters())


def shares(parameter: Tensor, graph: Graph) -> bool:
    return any(parameter.data_ptr() == tensor.data_ptr() for tensor in graph.tensors().values())


def test_a_tensor_goes_under_every_name_of_its_parameter() -> None:
    model, weight = tiny_gpt2(), tiny_gpt2().transformer.wte.weight
    named = {"transformer.wte.weight", "lm_head.weight"}
    for name in named:
        assert by_every_name(model, {name: weight}) == dict.fromkeys(named, weight)
    assert by_every_name(tiny_llama(), {"lm_head.weight": weight}) == {"lm_head.weight": weight}
