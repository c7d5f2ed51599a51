"""Graphs of whole texts that continue a text: the whole at once and one token after the other give the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from graphprune import capture
from graphprune.artefacts import check_process, parity
from graphprune.backends.onnx.backend import Onnx
from graphprune.backends.runtime.runner import load
from graphprune.errors import UsageError
from graphprune.frontend.stepwise.derive import NotStepwiseError, stepwise
from graphprune.generic.auto_classes import register
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.ir.verification import verify
from graphprune.rewriting.apply import apply
from graphprune.running import comparison
from graphprune.running.runners import graph_runner, runner_of, whole_runner
from tests.support import oracle
from tests.support.texts import IDS, MIXES, Mix, fused_attention, graph_of, window, written_attention

register()


@pytest.mark.parametrize("mix", MIXES)
def test_the_whole_is_its_steps(mix: Mix) -> None:
    graph = graph_of(mix)
    found = stepwise(graph)
    verify(found)
    torch.manual_seed(1)
    ids, mask = torch.randint(IDS, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[0, :2] = 0
    [whole] = graph(ids, mask)
    run, past, start = graph_runner(found), None, 0
    for length in (4, 1, 3, 1):  # a beginning, a token, some tokens at once
        end = start + length
        logits, past = run(ids[:, start:end], mask[:, :end], ids, past)
        real = mask[:, start:end].bool()  # padding that may look at nothing looks at everything
        torch.testing.assert_close(logits[real], whole[:, start:end][real], rtol=1e-4, atol=1e-5)
        start = end


def test_states_are_of_a_fixed_size_where_they_can_be() -> None:
    shapes = [
        str(node.meta["value"]) for name, node in stepwise(graph_of(window)).placeholders.items() if "past" in name
    ]
    assert shapes == ["float32[batch, 8, 3]"]
    grown = stepwise(graph_of(fused_attention))
    assert grown.inputs[2:] == ("past_key_values.0.key", "past_key_values.0.value")
    assert grown.outputs == ("logits", "present.0.key", "present.0.value")
    assert str(grown.placeholders["past_key_values.0.key"].meta["value"]) == "float32[batch, 1, past, 4]"
    assert [cleanup.name for cleanup in grown.cleanups[-3:]] == ["derive_cache", "remove_unread", "canonical"]
    assert grown.cleanups[-3].did.startswith("2 states ")


@pytest.mark.parametrize(
    ("mix", "reason"),
    [
        (lambda x, mask: x.flip(1), "would have to be kept"),
        (lambda x, mask: written_attention(written_attention(x, mask), mask), "more than keys and values"),
        (lambda x, mask: x.mean(1), "not of each token"),
    ],
)
def test_what_cannot_go_on_is_named(mix: Mix, reason: str) -> None:
    with pytest.raises(NotStepwiseError, match=reason):
        stepwise(graph_of(mix))


def openai_gpt() -> Any:
    """A class without a cache."""
    sizes = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(vocab_size=64, **sizes))


def musicgen() -> Any:
    """Texts in four rows of codes; its class cannot start with a cache."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "ffn_dim": 48}
    return transformers.MusicgenForCausalLM(transformers.MusicgenDecoderConfig(vocab_size=64, **sizes))


def minimax() -> Any:
    """Linear attention between layers of attention, and experts; its cache is of a class of its own."""
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.MiniMaxForCausalLM(
        transformers.MiniMaxConfig(vocab_size=64, num_key_value_heads=2, head_dim=8, num_local_experts=2, **sizes)
    )


@pytest.mark.parametrize("make", [openai_gpt, musicgen, minimax])
def test_models_without_a_usable_cache_get_one(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = capture(make().eval())
    assert graph.source.kind == "decoder"
    [note] = graph.notes
    assert note.startswith("its cache is derived from its graph: ")
    wide, analysis, masked = oracle.analyses(graph)
    keep = {g.id: tuple(range(g.units // 2, g.units)) for g in analysis.groups.prunable() if g.kind != "vocabulary"}
    assert oracle.check_cut(wide, analysis, masked, Plan(keep, statistics="exact"), 1e-9) < 1e-9
    cut = apply(graph, Plan(keep))
    parity.save_reference(cut, tmp_path)
    Onnx().export(cut, tmp_path)
    expected, kind = check_process.read_reference(tmp_path)
    assert kind == "derived"
    comparison.require(list(check_process.check_runnable(tmp_path / "onnx", expected, kind)))
    if make is musicgen:
        with pytest.raises(UsageError, match="several for a text"):
            load(tmp_path / "onnx", "cpu").generate([[1, 2]], 1)


def test_a_model_that_looks_ahead_gets_none() -> None:
    config = transformers.XLMConfig(vocab_size=64, emb_dim=32, n_layers=2, n_heads=4, max_position_embeddings=64)
    torch.manual_seed(0)
    graph = capture(transformers.XLMWithLMHeadModel(config).eval())
    assert graph.source.kind == "encoder"
    [note] = graph.notes
    assert "none can be derived" in note
    config.causal = True
    assert capture(transformers.XLMWithLMHeadModel(config).eval()).source.kind == "decoder"


def test_an_attempt_that_breaks_leaves_the_captured_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(graph: Graph) -> Graph:
        raise AssertionError("Min(256, sequence) is not a sum or a product")

    monkeypatch.setattr("graphprune.frontend.pretrained.stepwise", breaks)
    graph = capture(openai_gpt().eval())
    assert graph.source.kind == "encoder"
    assert graph.notes[0].endswith("none can be derived: Min(256, sequence) is not a sum or a product")


def test_a_class_without_a_cache_runs_on_the_whole_text() -> None:
    torch.manual_seed(0)
    model = openai_gpt().eval()
    ids, mask = torch.randint(64, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    run = runner_of(model)
    with torch.no_grad():
        wanted = model(ids, attention_mask=mask).logits
        first, past = run(ids[:, :5], mask[:, :5], ids, None)
        second, _ = run(ids[:, 5:], mask, ids, past)
    torch.testing.assert_close(torch.cat([first, second], 1), wanted)
    assert run.__qualname__ == whole_runner(model).__qualname__


def test_deep_models_need_no_deep_stack() -> None:
    sizes = {"n_positions": 32, "n_embd": 8, "n_layer": 40, "n_head": 2}
    with torch.device("meta"):
        model = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(vocab_size=64, **sizes))
    assert len(capture(model.eval()).inputs) == 2 + 2 * 40
