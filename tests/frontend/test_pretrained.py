"""Decoders whose form with a cache cannot be captured are captured without one, and say so."""

from typing import Any

import pytest
import torch
import transformers

from graphprune import analyze, capture
from graphprune.errors import CaptureError
from graphprune.models.decoder import cache_arguments
from graphprune.running.inputs import decoder_inputs


def prophetnet() -> Any:
    """Asserts that a cached call has one token; its chunks along the tokens are even for every length."""
    torch.manual_seed(0)
    config = transformers.ProphetNetConfig(
        vocab_size=64,
        hidden_size=32,
        max_position_embeddings=128,
        num_decoder_layers=1,
        decoder_ffn_dim=48,
        num_decoder_attention_heads=4,
        is_decoder=True,
        add_cross_attention=False,
    )
    return transformers.ProphetNetForCausalLM(config).eval()


def xlm(**sizes: int) -> Any:
    """Asserts something about the values of its input."""
    torch.manual_seed(0)
    config = transformers.XLMConfig(vocab_size=64, emb_dim=32, n_layers=1, n_heads=2, **sizes)
    return transformers.XLMWithLMHeadModel(config).eval()


def test_the_whole_text_goes_through_the_graph() -> None:
    model = prophetnet()
    graph = capture(model)
    assert graph.source.kind == "encoder"
    [note] = [text for text in graph.notes if text.startswith("captured without a cache")]
    assert "only supported for `decoder_input_ids` of length 1" in note
    for ids in (torch.randint(3, 64, (2, length)) for length in (2, 5, 11)):
        with torch.no_grad():
            found = dict(zip(graph.outputs, graph(ids, torch.ones_like(ids)), strict=True))["logits"]
            torch.testing.assert_close(found, model(ids, torch.ones_like(ids), use_cache=False).logits)
    locks = " ".join(str(group.locked) for group in analyze(graph).groups)
    assert "no axis rule for aten.chunk" not in locks
    assert "no axis rule for aten.narrow" not in locks


def test_a_model_that_looks_at_values_runs_once_for_real() -> None:
    model = xlm()
    graph, ids = capture(model), torch.randint(3, 64, (2, 6))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        torch.testing.assert_close(graph(*(inputs[n] for n in graph.inputs))[0], model(**inputs).logits)


CACHE = cache_arguments()[0]


class Greeting(transformers.LlamaForCausalLM):
    """Says something else as long as its cache is empty."""

    def forward(  # type: ignore[override]
        self, input_ids: Any, attention_mask: Any = None, past_key_values: Any = None, cache: Any = None, **kwargs: Any
    ) -> Any:
        cache = past_key_values if cache is None else cache
        first = cache is None or cache.get_seq_length() == 0
        output = super().forward(input_ids, attention_mask, **{CACHE: cache}, **kwargs)
        output.logits = output.logits + 1 if first else output.logits
        return output


def test_a_graph_with_a_cache_that_is_not_the_model_is_not_taken() -> None:
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    model = Greeting(config).eval()
    graph, ids = capture(model), torch.randint(3, 32, (2, 6))
    [note] = graph.notes
    assert note.startswith("its cache is derived from its graph: ")
    assert "its graph does not compute what it does" in note
    with torch.no_grad():
        torch.testing.assert_close(graph(*decoder_inputs(graph, ids))[0], model(ids, use_cache=False).logits)


def test_without_weights_it_is_refused_in_one_line() -> None:
    with torch.device("meta"), pytest.raises(CaptureError, match="cannot run XLMWithLMHeadModel on tensors without"):
        capture(xlm())
