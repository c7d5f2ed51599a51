"""Encoder-decoders: one graph for both, cross-attention grouped with the encoder, cut, reloaded and run as ONNX."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from graphprune import Graph, Plan, apply, capture
from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.artefacts import check_process, parity
from graphprune.backends.huggingface.backend import HuggingFace
from graphprune.backends.onnx.backend import Onnx
from graphprune.models.seq2seq import is_seq2seq, seq2seq_contract
from graphprune.running import comparison
from tests.support import oracle

TOKENS = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 1}
CROSS = "EncDecAttention"


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=61, d_model=32, d_kv=8, d_ff=44, num_layers=2, num_heads=4, tie_word_embeddings=False, **TOKENS
    )
    return transformers.T5ForConditionalGeneration(config)


def bart() -> Any:
    layers = {"encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 44, "decoder_ffn_dim": 36}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 2}
    config = transformers.BartConfig(
        vocab_size=61, d_model=32, max_position_embeddings=32, bos_token_id=1, **layers, **heads, **TOKENS
    )
    return transformers.BartForConditionalGeneration(config)


MODELS = {"t5": t5, "bart": bart}
EVERY = pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in MODELS])


@functools.cache
def model(name: str) -> Any:
    torch.manual_seed(0)
    made = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@functools.cache
def graph(name: str) -> Graph:
    return capture(model(name))


@functools.cache
def analysis(name: str) -> Analysis:
    return analyze_axes(graph(name))


def halves(found: Analysis, kinds: frozenset[str]) -> dict[str, tuple[int, ...]]:
    return {g.id: tuple(range(0, g.units, 2)) for g in found.groups.prunable(kinds) if g.units > 1}


@EVERY
def test_the_graph_takes_both_sequences_and_computes_what_the_model_does(name: str) -> None:
    captured = graph(name)
    assert captured.source.kind == "seq2seq"
    assert captured.inputs == ("input_ids", "attention_mask", "decoder_input_ids")
    assert captured.outputs == ("logits",)
    ids, target = torch.randint(3, 60, (3, 9)), torch.randint(3, 60, (3, 4))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    with torch.no_grad():
        wanted = model(name)(input_ids=ids, attention_mask=mask, decoder_input_ids=target).logits
        torch.testing.assert_close(captured(ids, mask, target)[0], wanted, rtol=1e-4, atol=1e-5)


@EVERY
def test_both_lengths_vary_each_on_its_own(name: str) -> None:
    assert is_seq2seq(model(name))
    wrapper, contract = seq2seq_contract(model(name))
    assert list(contract.inputs) == ["input_ids", "attention_mask", "decoder_input_ids"]
    text, target = {0: "batch", 1: "sequence"}, {0: "batch", 1: "target"}
    assert contract.dynamic == {"input_ids": text, "attention_mask": text, "decoder_input_ids": target}
    assert len({*contract.inputs["input_ids"].shape, *contract.inputs["decoder_input_ids"].shape}) == 3
    assert contract.maximum == ({} if name == "t5" else {"sequence": 32, "target": 32}), "positions that are learned"
    with torch.no_grad():
        (logits,) = wrapper(*contract.inputs.values())
        torch.testing.assert_close(logits, model(name)(**contract.inputs, use_cache=False).logits)


@EVERY
def test_cut_equals_masked(name: str) -> None:
    wide, found, masked = oracle.analyses(graph(name))
    kinds = sorted({group.kind for group in found.groups.prunable()})
    assert {"attention", "head_dim", "mlp", "residual"} <= set(kinds)
    for chosen in [*(frozenset({kind}) for kind in kinds), frozenset(kinds)]:
        oracle.check_cut(wide, found, masked, Plan(halves(found, chosen), statistics="exact"), 1e-9)


@EVERY
def test_every_branch_can_be_dropped(name: str) -> None:
    """Two branches in a layer of the encoder, three in one of the decoder; one that alone reads the encoder stays."""
    wide, found, masked = oracle.analyses(graph(name))
    layers = {"t5": 2 * 2 + 2 * 3, "bart": 2 * 2 + 1 * 2}
    assert len(found.groups.branches) == layers[name]
    for branch in found.groups.branches:
        oracle.check_cut(wide, found, masked, Plan({}, (branch.id,), "exact"), 1e-9)


@pytest.mark.xdist_group("t5")
def test_cross_attention_reads_the_encoders_width_and_has_heads_of_its_own() -> None:
    """Position biases are made in the first layer and shared by all, so the heads of all layers are one group."""
    groups = analysis("t5").groups.groups
    (residual,) = (g for g in groups if any(s.name == "encoder.final_layer_norm.weight" for s in g.slots))
    read = {slot.name for slot in residual.slots if CROSS in slot.name and slot.dim == 1}
    assert {n.split(".")[-2] for n in read} >= {"k", "v"}
    heads = [g for g in groups if g.kind == "attention"]
    assert len(heads) == 3
    (cross,) = (g for g in heads if any(CROSS in slot.name for slot in g.slots))
    assert {".".join(slot.name.split(".")[-3:-1]) for slot in cross.slots} == {f"{CROSS}.{part}" for part in "qkvo"}
    biased = [g for g in heads if any("relative_attention_bias" in slot.name for slot in g.slots)]
    assert len(biased) == 2


@EVERY
def test_what_is_cut_is_written_and_read_again(name: str, tmp_path: Path) -> None:
    """The feed-forward widths alone have a stock checkpoint; heads as well have the generic one; both have ONNX."""
    found = analysis(name)
    for kinds, stock in ((frozenset({"mlp"}), True), (frozenset({"mlp", "attention", "head_dim"}), False)):
        out = tmp_path / str(stock)
        cut = apply(graph(name), Plan(halves(found, kinds)))
        parity.save_reference(cut, out)
        HuggingFace().export(cut, out)
        Onnx().export(cut, out)
        checks = list(check_process.check_all(out))
        assert {check.artefact for check in checks} == {"huggingface", "onnx"}
        comparison.require(checks)
        if stock:
            assert not (out / "modeling_graphprune.py").exists()
