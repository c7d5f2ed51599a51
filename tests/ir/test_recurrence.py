"""The recurrence operator, the forms of transformers' loops that use it, and the states of a decoder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.kimi_linear import modeling_kimi_linear
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2
from transformers.models.qwen3_next import modeling_qwen3_next

from graphprune.backends.huggingface.backend import HuggingFace
from graphprune.backends.runtime import runner as runtime
from graphprune.compiler.compile import compile_model
from graphprune.generic.auto_classes import register
from graphprune.ir.plan import Plan
from graphprune.ir.recurrence import linear_recurrence
from graphprune.models.recurrent_layers import Recurrent, delta_rule, selective_scan, state_space_duality
from graphprune.pipeline.options import CompileOptions
from graphprune.rewriting.apply import apply
from graphprune.running.observations import greedy
from graphprune.running.runners import graph_runner
from tests.support import zoo
from tests.support.families import analysis, families, graph
from tests.support.tiny_source import write_source

register()

BATCH, HEADS, TOKENS, KEYS, VALUES = 2, 3, 7, 4, 5


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def operands(beta: bool) -> list[Tensor]:
    decay = -torch.rand(BATCH, HEADS, TOKENS, KEYS, 1, dtype=torch.float64)
    found = [random(BATCH, HEADS, TOKENS, size) for size in (KEYS, KEYS, VALUES)]
    found += [decay, random(BATCH, HEADS, KEYS, VALUES)]
    return [*found, torch.rand(BATCH, HEADS, TOKENS, dtype=torch.float64)] if beta else found


@pytest.mark.parametrize("beta", [False, True])
def test_the_state_carries_on(beta: bool) -> None:
    """Token by token, each step from the state of the last, is the same as all tokens at once."""
    torch.manual_seed(0)
    query, key, value, decay, state, *rest = operands(beta)
    whole, last = linear_recurrence(query, key, value, decay, state, *rest)
    outputs = []
    for token in range(TOKENS):
        step = [x[:, :, token : token + 1] for x in (query, key, value, decay)]
        output, state = linear_recurrence(*step, state, *(x[:, :, token : token + 1] for x in rest))
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 2), whole)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("beta", [False, True])
def test_its_gradients_are_those_of_its_values(beta: bool) -> None:
    torch.manual_seed(0)
    given = [x[:1, :1, :3].requires_grad_() if x.ndim != 4 or x.shape[2] == TOKENS else x for x in operands(beta)]
    given[4] = random(1, 1, KEYS, VALUES).requires_grad_()
    assert torch.autograd.gradcheck(linear_recurrence, given)


@pytest.mark.parametrize("beta", [False, True])
def test_a_channel_of_zeros_leaves_no_trace(beta: bool) -> None:
    """Keys and queries that are zero, or values that are, are as if the channel were not there."""
    torch.manual_seed(0)
    query, key, value, decay, state, *rest = operands(beta)
    query[..., 1], key[..., 1], state[:, :, 1] = 0, 0, 0
    value[..., 2], state[..., 2] = 0, 0
    outputs, last = linear_recurrence(query, key, value, decay, state, *rest)
    keys, values = [0, 2, 3], [0, 1, 3, 4]
    narrow = (query[..., keys], key[..., keys], value[..., values], decay[..., keys, :], state[:, :, keys][..., values])
    less, rows = linear_recurrence(*narrow, *rest)
    torch.testing.assert_close(outputs[..., values], less)
    torch.testing.assert_close(last[:, :, keys][..., values], rows)
    assert not outputs[..., 2].any()
    assert not last[:, :, 1].any()


def test_it_keeps_the_rules_of_an_operator() -> None:
    torch.library.opcheck(linear_recurrence, tuple(operands(beta=True)))


def test_the_delta_rule_is_transformers_own() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 9, 2, KEYS), torch.randn(2, 9, 2, KEYS)
    value, g, beta = torch.randn(2, 9, 4, VALUES), -torch.rand(2, 9, 4), torch.rand(2, 9, 4)
    state = torch.randn(2, 4, KEYS, VALUES)
    original = modeling_qwen3_next.torch_chunk_gated_delta_rule
    options: dict[str, Any] = {"initial_state": state, "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    repeated = (x.repeat_interleave(2, dim=2) for x in (query, key))  # as releases before 5.20 or so are called
    wanted = original(*repeated, value, g=g, beta=beta, **options)
    found = delta_rule(original, Recurrent())(query, key, value, g=g, beta=beta, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_channelwise_delta_rule_is_transformers_own() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 9, 3, size) for size in (KEYS, KEYS, VALUES))
    g, beta, state = -torch.rand(2, 9, 3, KEYS), torch.rand(2, 9, 3), torch.randn(2, 3, KEYS, VALUES)
    original = modeling_kimi_linear.chunk_kimi_delta_attention
    options: dict[str, Any] = {"initial_state": state, "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    wanted = original(query, key, value, g=g, beta=beta, **options)
    found = delta_rule(original, Recurrent())(query, key, value, g=g, beta=beta, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_state_space_duality_is_transformers_own() -> None:
    torch.manual_seed(0)
    values, dt, a = torch.randn(2, 9, 4, VALUES), torch.randn(2, 9, 4), -torch.rand(4)
    b, c, state = torch.randn(2, 9, 2, KEYS), torch.randn(2, 9, 2, KEYS), torch.randn(2, 4, VALUES, KEYS)
    original = modeling_mamba2.mamba2_chunk_scan
    options: dict[str, Any] = {"chunk_size": 4, "D": torch.randn(4), "dt_bias": torch.randn(4), "dt_softplus": True}
    options |= {"initial_states": state, "return_final_states": True}
    wanted = original(values, dt, a, b, c, **options)
    found = state_space_duality(original, Recurrent())(values, dt, a, b, c, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_selective_scan_is_transformers_own() -> None:
    """Which begins with zeros, and takes no other state."""
    torch.manual_seed(0)
    values, dt, a = torch.randn(2, 8, 9), torch.randn(2, 8, 9), -torch.rand(8, KEYS)
    b, c = torch.randn(2, KEYS, 9), torch.randn(2, KEYS, 9)
    original, recurrent = modeling_mamba.mamba_selective_scan, Recurrent()
    recurrent.give(torch.zeros(2, 8, KEYS))
    options: dict[str, Any] = {"D": torch.randn(8), "z": torch.randn(2, 8, 9), "delta_bias": torch.randn(8)}
    options |= {"delta_softplus": True, "return_last_state": True}
    wanted = original(values, dt, a, b, c, **options)
    found = selective_scan(original, recurrent)(values, dt, a, b, c, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_transformers_is_as_it_was_after_a_capture() -> None:
    from transformers.cache_utils import Cache, LinearAttentionLayer

    owners = (Cache, LinearAttentionLayer, modeling_mamba)
    before = [dict(vars(owner)) for owner in owners]
    graph.__wrapped__("mamba")
    assert [dict(vars(owner)) for owner in owners] == before


STATES = {
    "mamba": {"0.conv", "0.recurrent", "1.conv", "1.recurrent"},
    "qwen3_next": {"0.conv", "0.recurrent", "1.key", "1.value"},
}


@pytest.mark.parametrize("name", families(STATES))
def test_states_are_named_by_layer_and_part(name: str) -> None:
    captured = graph(name)
    assert {n.removeprefix("past_key_values.") for n in captured.inputs if n.startswith("past_")} == STATES[name]
    assert {n.removeprefix("present.") for n in captured.outputs if n.startswith("present.")} == STATES[name]


@pytest.mark.parametrize("name", families(STATES))
def test_a_generic_checkpoint_generates_with_its_states(name: str, tmp_path: Path) -> None:
    """transformers' own loop on unequal layers: the states are carried in the cache that its configuration makes."""
    captured = graph(name)
    group = next(g for g in analysis(name).groups.prunable(frozenset({"mlp"})) if g.units > 8)
    cut = apply(captured, Plan({group.id: tuple(range(group.units - 3))}))
    HuggingFace(form="generic").export(cut, tmp_path)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompt = torch.tensor([[5, 9, 4, 17]])
    wanted, _ = greedy(graph_runner(cut), prompt, 12)
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 0, "eos_token_id": None}
    with torch.no_grad():
        alone = model.generate(prompt, **options)
        padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), prompt], 1)
        mask = (padded != 0).long()
        both = model.generate(torch.cat([padded, padded.roll(1)]), attention_mask=torch.cat([mask, mask]), **options)
    assert alone[0, 4:].tolist() == wanted.tolist()
    assert both[0, 7:].tolist() == wanted.tolist()


def test_a_hybrid_is_compiled_from_end_to_end(tmp_path: Path) -> None:
    """Gradients through the recurrence, both faces with their checks, and the runner with the states."""
    source = write_source(tmp_path / "source")
    config: Any = zoo.qwen3_next().config
    config.vocab_size, config.bos_token_id, config.eos_token_id = 300, 0, 0
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(source)
    options = CompileOptions(str(source), "75%", tmp_path / "out", data=str(source / "text.txt"), samples=4, length=16)
    result = compile_model(replace(options, importance="taylor", prune=("mlp", "attention", "residual")))
    assert {check.artefact for check in result.checks} == {"graph", "huggingface", "onnx"}
    assert all(check.passed for check in result.checks)
    assert not (tmp_path / "out" / "onnx" / "genai_config.json").exists()
    runner = runtime.load(tmp_path / "out")
    assert {cache.part for cache in runner.caches} == {"conv", "recurrent", "key", "value"}
    assert len(runner.generate([[5, 9], [4, 8, 7]], 5)) == 2
