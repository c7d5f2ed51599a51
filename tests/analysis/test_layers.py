"""Layers are the blocks of a model: found from its graph, in both streams of an encoder-decoder."""

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from graphprune import Graph, Plan, apply, capture
from graphprune.analysis.analyse import analyze
from graphprune.analysis.branches import find_branches
from graphprune.analysis.layers import by_branch, find_layers, find_streams, number_layers
from graphprune.budget.budgets import Budget
from graphprune.passes.allocation.adaptive import Adaptive
from graphprune.passes.allocation.uniform import Uniform
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.pruning.interfaces import view
from graphprune.pruning.rounds import Request, prune
from graphprune.pruning.signals.stream_change import measure_change
from graphprune.running.inputs import run_batch
from tests.support.families import families, graph

TOKENS = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 1}


def t5() -> Any:
    config = transformers.T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=44, num_layers=2, num_heads=4, **TOKENS)
    return transformers.T5ForConditionalGeneration(config)


def bart() -> Any:
    layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 44, "decoder_ffn_dim": 36}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 2}
    config = transformers.BartConfig(
        vocab_size=61, d_model=32, max_position_embeddings=32, bos_token_id=1, **layers, **heads, **TOKENS
    )
    return transformers.BartForConditionalGeneration(config)


def albert() -> Any:
    sizes = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 44}
    config = transformers.AlbertConfig(vocab_size=61, num_attention_heads=4, max_position_embeddings=64, **sizes)
    return transformers.AlbertForMaskedLM(config)


def jamba() -> Any:
    """A hybrid: a state space in one layer, attention in the next, an MLP in both."""
    sizes = {"hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 4, "num_attention_heads": 4}
    every = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 9, "expert_layer_offset": 8}
    mamba = {"mamba_d_state": 6, "mamba_dt_rank": 4, "use_mamba_kernels": False, "num_key_value_heads": 2}
    config = transformers.JambaConfig(vocab_size=61, **sizes, **every, **mamba)
    return transformers.JambaForCausalLM(config)


MADE = {"t5": t5, "bart": bart, "albert": albert, "jamba": jamba}


@functools.cache
def made(name: str) -> Graph:
    torch.manual_seed(0)
    return capture(MADE[name]().eval())


def parts(found: Graph) -> list[list[str]]:
    return [[branch.id for branch in layer] for layer in find_layers(analyze(found))]


@pytest.mark.xdist_group("t5")
def test_a_layer_of_a_decoder_has_both_attentions_and_the_mlp() -> None:
    for name, wanted in (("t5", [2, 2, 3, 3]), ("bart", [2, 3, 3])):
        layers = parts(made(name))
        assert [len(layer) for layer in layers] == wanted, layers
        for layer in layers:
            sides = {tuple(p for p in id.split(".") if p.isdigit() or p in ("encoder", "decoder"))[:2] for id in layer}
            assert len(sides) == 1, layer


@pytest.mark.parametrize("name", families(("falcon", "gpt_neox", "falcon_h1", "bloom", "mamba", "qwen3_next", "clip")))
def test_parallel_attention_shared_heads_and_state_spaces(name: str) -> None:
    layers = parts(graph(name))
    numbers = [
        {tuple(id.split(".")[:1]) + tuple(p for p in id.split(".") if p.isdigit()) for id in la} for la in layers
    ]
    assert all(len(each) == 1 for each in numbers), layers
    assert len(layers) == (4 if name == "clip" else 2)


@pytest.mark.xdist_group("jamba")
def test_a_layer_that_mixes_tokens_without_heads_is_its_own() -> None:
    assert [len(layer) for layer in parts(made("jamba"))] == [2, 2, 2, 2]


@pytest.mark.xdist_group("llama")
def test_what_is_left_of_a_cut_model_keeps_its_layers() -> None:
    source = graph("llama")
    first = analyze(source).branches[1]
    assert [len(layer) for layer in parts(apply(source, Plan({}, (first.id,))))] == [1, 2]
    numbered = number_layers(source, find_branches(source), analyze(source).groups)
    assert numbered == analyze(source).branches
    assert by_branch(find_layers(analyze(source)), (1.0, 2.0))[first.id] == 1.0


@pytest.mark.xdist_group("t5")
def test_encoder_and_decoder_are_two_streams_each_measured_over_its_own_tokens() -> None:
    source = made("t5")
    groups = analyze(source)
    flow = {node.name: stream for node, stream in find_streams(source, groups.branches).items()}
    assert [flow[layer[0].add] for layer in find_layers(groups)] == [0, 0, 1, 1]
    batch = {
        "input_ids": torch.randint(3, 60, (2, 11)),
        "attention_mask": torch.ones(2, 11, dtype=torch.long),
        "decoder_input_ids": torch.randint(3, 60, (2, 4)),
    }
    for distance in ("cosine", "euclidean"):
        found = measure_change(source, find_layers(groups), [batch], distance)  # type: ignore[arg-type]
        alone = [measure_change(source, [layer], [batch], distance)[0] for layer in find_layers(groups)]  # type: ignore[arg-type]
        assert found == pytest.approx(alone)
    assert all(-1 <= change <= 1 for change in measure_change(source, find_layers(groups), [batch], "cosine"))
    assert run_batch(source, batch)[0].shape == (2, 4, 61)


def alike(found: Graph, batches: list[Any], kinds: tuple[str, ...]) -> list[str]:
    request = Request(Budget(int(found.parameter_count() * 0.9)), Magnitude(), Adaptive(), kinds)
    pruned = prune(found, request, batches)
    uniform = prune(found, Request(request.budget, Magnitude(), Uniform(), request.kinds), batches)
    noted = [note for note in pruned.notes if "adaptive found no two layers" in note]
    assert not noted or pruned.plan.keep.keys() == uniform.plan.keep.keys()
    return noted


@pytest.mark.xdist_group("llama")
def test_adaptive_says_where_it_is_uniform() -> None:
    found = made("albert")
    assert parts(found) == []
    names = {name: torch.randint(3, 60, (2, 9)) for name in found.inputs}
    batch = names | {n: torch.ones_like(t) for n, t in names.items() if "mask" in n}
    batch |= {n: torch.zeros_like(t) for n, t in names.items() if "type" in n}
    assert len(alike(found, [batch], ("attention", "other"))) == 1
    assert alike(graph("llama"), [torch.randint(3, 60, (2, 9))], ("attention", "mlp")) == []


@pytest.mark.xdist_group("llama")
def test_a_note_is_told_once_for_all_rounds_and_not_where_all_alike_is_asked_for() -> None:
    told: list[str] = []
    scene = view(graph("llama"), analyze(graph("llama")).prunable(frozenset({"residual"})))
    batches = (torch.randint(3, 60, (2, 9)),)

    Adaptive().rates(replace(scene, batches=batches, note=told.append))
    assert len(told) == 1
    Adaptive(amplitude=0.0).rates(replace(scene, batches=batches, note=told.append))
    assert len(told) == 1
