"""The objective of a batch is the sum over its tokens, with the gradients of plain autograd on the whole logits."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from graphprune.ir.graph import Graph
from graphprune.running.inputs import decoder_inputs
from graphprune.training.objective import chunks
from graphprune.training.objective.objective import Objective
from graphprune.training.objective.predictor import Predictor
from graphprune.training.objective.sums import Blend, token_sums
from graphprune.training.objective.teacher import make_teacher
from graphprune.training.options import TrainOptions
from tests.support.families import families, wide
from tests.support.tiny_llama import ids

FAMILIES = ["llama", "gpt2", "gemma2"]


def gradients(graph: Graph, loss: Tensor) -> dict[str, Tensor]:
    named = {name: each for name, each in graph.module.named_parameters() if each.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: each for name, each in zip(named, found, strict=True) if each is not None}


def whole(graph: Graph, tokens: Tensor, labels: Tensor) -> Tensor:
    logits = graph(*decoder_inputs(graph, tokens))[graph.outputs.index("logits")]
    targets = functional.pad(labels[:, 1:], (0, 1), value=-100)
    return functional.cross_entropy(logits.flatten(0, 1).double(), targets.flatten(), reduction="sum")


@pytest.mark.parametrize("name", families(FAMILIES))
def test_gradients_are_those_of_the_whole_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_LARGEST_CHUNK", 150)
    graph, tokens = wide(name).graph, ids(2, 9) % 16
    labels = tokens.clone()
    labels[0, 2:4] = -100
    loss, entropy, *_ = Objective(Predictor(graph, 2, 9), 61, Blend())(tokens, labels)
    expected = whole(graph, tokens, labels)
    assert loss.item() == entropy.item() == pytest.approx(expected.item(), rel=1e-6)
    found, right = gradients(graph, loss), gradients(graph, expected)
    assert found.keys() == right.keys()
    for key, gradient in found.items():  # the loss is taken in float32
        torch.testing.assert_close(gradient, right[key], rtol=1e-4, atol=1e-5)


@pytest.mark.xdist_group("llama")
def test_a_teacher_is_followed_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_LARGEST_CHUNK", 150)
    graph, tokens = wide("llama").graph, ids(2, 9) % 16
    teacher = make_teacher(graph, TrainOptions(steps=1, rows=2), 9, torch.device("cpu"))
    student = graph.with_tensors(
        {n: torch.nn.Parameter(1.1 * t) for n, t in graph.tensors().items() if t.requires_grad}
    )
    blend = Blend(0.5, 2.0)
    loss, _, divergence, _ = Objective(Predictor(student, 2, 9), 61, blend, teacher)(tokens, tokens, teacher(tokens))
    with torch.no_grad():
        given, known = (each(*decoder_inputs(each, tokens))[0][:, :-1].flatten(0, 1) for each in (student, graph))
    expected = token_sums(given, tokens[:, 1:].flatten(), known, blend)
    assert loss.item() == pytest.approx(expected[0].item(), rel=1e-5)
    assert divergence.item() == pytest.approx(expected[2].item(), rel=1e-5)
    assert divergence > 0
