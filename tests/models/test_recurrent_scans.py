"""Loops over tokens that models write out themselves: our forms compute the same, also where exponentials overflow."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru
from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu
from transformers.models.xlstm import modeling_xlstm

from graphprune import analyze, capture
from graphprune.artefacts import check_process, parity
from graphprune.backends.huggingface.backend import HuggingFace
from graphprune.backends.onnx.backend import Onnx
from graphprune.generic.auto_classes import register
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.models import recurrent_scans
from graphprune.rewriting.apply import apply
from graphprune.running import comparison
from graphprune.running.inputs import decoder_inputs
from tests.support import oracle

register()


@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_a_gated_scan(tokens: int) -> None:
    torch.manual_seed(0)
    x, gate = torch.randn(2, tokens, 5), torch.rand(2, tokens, 5)
    reset = torch.zeros(2, tokens, 1, dtype=torch.bool)
    reset[:, 0] = reset[1, tokens // 2] = True
    expected, _ = RecurrentGemmaRglru._rnn_scan(SimpleNamespace(), x, gate, reset, None)
    torch.testing.assert_close(recurrent_scans.gated_scan(None, x, gate, reset, None)[0], expected)


@pytest.mark.parametrize("spread", [1.0, 200.0])
def test_weighted_keys(spread: float) -> None:
    torch.manual_seed(0)
    key, value = torch.randn(2, 9, 5) * spread, torch.randn(2, 9, 5)
    decay, first = torch.randn(5), torch.randn(5)
    expected, _ = rwkv_linear_attention_cpu(decay, first, key, value)
    torch.testing.assert_close(
        recurrent_scans.weighted_keys(decay, first, key, value)[0], expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_a_matrix_memory(spread: float) -> None:
    torch.manual_seed(0)
    backend = modeling_xlstm.xLSTMBackend(transformers.xLSTMConfig(chunk_size=4))
    query, key, value = (torch.randn(2, 3, 9, size) for size in (4, 4, 6))
    gates = [torch.randn(2, 3, 9) * spread for _ in range(2)]
    expected, _ = backend(query, key, value, *gates)
    torch.testing.assert_close(
        recurrent_scans.matrix_memory(backend, query, key, value, *gates)[0], expected, rtol=1e-4, atol=1e-5
    )


def rwkv() -> Any:
    """The weights of the second block are halved in the first run, as those of every sixth are by default."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16}
    return transformers.RwkvForCausalLM(transformers.RwkvConfig(vocab_size=64, rescale_every=1, **sizes))


def griffin() -> Any:
    config = transformers.RecurrentGemmaConfig(
        vocab_size=64,
        hidden_size=16,
        lru_width=16,
        num_attention_heads=2,
        num_hidden_layers=3,
        intermediate_size=24,
        head_dim=8,
    )
    return transformers.RecurrentGemmaForCausalLM(config)


def cut_of(model: Any) -> tuple[Graph, Graph]:
    """A model's graph, and that graph cut in half, which is the masked one."""
    torch.manual_seed(0)
    graph = capture(model.eval())
    wide, analysis, masked = oracle.analyses(graph)
    keep = {g.id: tuple(range(g.units // 2, g.units)) for g in analysis.groups.prunable() if g.kind != "vocabulary"}
    plan = Plan(keep, statistics="exact")
    assert oracle.check_cut(wide, analysis, masked, plan, 1e-9) < 1e-9
    return graph, apply(graph, Plan(keep))


@pytest.mark.parametrize("make", [rwkv, griffin])
def test_the_models_are_cut_and_reach_onnx(make: Any, tmp_path: Path) -> None:
    graph, cut = cut_of(make())
    assert graph.source.kind == "decoder"
    kinds = {group.kind for group in analyze(graph).prunable()}
    assert {"attention", "residual", "mlp"} <= kinds
    parity.save_reference(cut, tmp_path)
    Onnx().export(cut, tmp_path)
    expected, kind = check_process.read_reference(tmp_path)
    comparison.require(list(check_process.check_runnable(tmp_path / "onnx", expected, kind)))


def test_weights_that_a_model_changes_when_it_first_runs_are_kept_as_they_are_stored(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = rwkv().eval()
    stored = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = capture(model)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())
    HuggingFace().export(graph, tmp_path)
    ids = torch.randint(64, (2, 9))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        torch.testing.assert_close(loaded(ids, use_cache=False).logits, expected)
        torch.testing.assert_close(graph(*decoder_inputs(graph, ids))[0], expected)
