"""The causal form: the same outputs and gradients for texts of its length, wherever attention has the triangle."""

import pytest
import torch
import transformers

from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.running.forms.causal import causal_form, is_triangle
from graphprune.running.loss import next_token_loss
from graphprune.training.objective.predictor import Predictor
from tests.support import oracle
from tests.support.families import families, graph
from tests.support.tiny_llama import ids, tiny_graph
from tests.support.zoo import DECODERS

LENGTH = 11


def causal_calls(graph: Graph) -> int:
    """The calls of attention that are causal by themselves."""
    calls = [n for n in graph.nodes if n.target is torch.ops.aten.scaled_dot_product_attention.default]
    return sum(len(call.args) > 5 and call.args[5] is True and call.args[3] is None for call in calls)


def gradients(graph: Graph, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The loss and its gradient by every parameter."""
    own = {n: torch.nn.Parameter(p.detach()) for n, p in graph.parameters().items()}
    loss = next_token_loss(graph.with_tensors(own), tokens)
    found = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
    return (loss, *(torch.zeros(()) if g is None else g for g in found))


@pytest.mark.parametrize("name", families(DECODERS))
def test_every_family_computes_the_same(name: str) -> None:
    wide = oracle.double(graph(name))
    tokens = torch.randint(3, 60, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    for one, other in zip(gradients(causal_form(wide, LENGTH), tokens), gradients(wide, tokens), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)  # the loss is taken in float32


def test_llama_has_no_mask_left() -> None:
    form = causal_form(tiny_graph(), LENGTH)
    assert causal_calls(form) == 2
    assert len(form.nodes) < len(tiny_graph().nodes)
    assert all(form.tensors()[name] is tensor for name, tensor in tiny_graph().parameters().items())


def test_a_window_that_is_shorter_than_the_text_keeps_its_mask() -> None:
    config = transformers.MistralConfig(
        vocab_size=61, hidden_size=32, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8, max_position_embeddings=64,
    )  # fmt: skip
    captured = capture(transformers.MistralForCausalLM(config).eval())
    assert causal_calls(causal_form(captured, 8)) == 1
    assert causal_form(captured, 9) is captured


def test_rows_of_another_length_run_as_they_were() -> None:
    model, tokens = Predictor(tiny_graph(), 2, LENGTH), ids(2, 7)
    plain = Predictor(tiny_graph(), 2, LENGTH, plain=False)
    assert model.head is not None
    with torch.no_grad():
        torch.testing.assert_close(model.head(model(tokens)), plain(tokens))
        torch.testing.assert_close(model(ids(2, LENGTH)), Predictor(tiny_graph(), 2, 7)(ids(2, LENGTH)))


def test_what_is_no_triangle() -> None:
    seen = torch.ones(4, 4, dtype=torch.bool).tril()
    assert is_triangle(seen[None, None])
    assert is_triangle(torch.zeros(4, 4).masked_fill(~seen, float("-inf")))
    assert is_triangle(torch.zeros(4, 4).masked_fill(~seen, torch.finfo(torch.float32).min))
    for mask in (~seen, seen[:3], seen | torch.eye(4, dtype=torch.bool).roll(1, 1), torch.where(seen, -0.5, -1e38)):
        assert not is_triangle(mask)
    assert not is_triangle(torch.zeros(4, 4).masked_fill(~seen, -100.0))
