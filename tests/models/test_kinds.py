"""Which contract fits a model: by what it takes and keeps, not by its name."""

from typing import Any

import pytest
import torch
import transformers

from graphprune.models.kinds import CONTRACTS, kind_of, writes_text
from graphprune.models.seq2seq import is_seq2seq
from tests.support import zoo
from tests.support.families import model


def on_meta(make: Any, config: Any) -> Any:
    with torch.device("meta"):
        return make(config)


def t5(make: Any) -> Any:
    sizes = {"vocab_size": 61, "d_model": 32, "d_kv": 8, "d_ff": 44, "num_layers": 1, "num_heads": 4}
    return on_meta(make, transformers.T5Config(**sizes))


def bert() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    return transformers.BertConfig(vocab_size=61, **sizes)


KINDS = {**dict.fromkeys(zoo.DECODERS, "decoder"), **dict.fromkeys(zoo.ENCODERS, "encoder")}


@pytest.mark.parametrize("name", ["llama", "bloom", "mamba", "qwen3_next", "bert", "vit", "clip"])
def test_what_generates_with_a_cache_is_a_decoder_and_the_rest_encoders(name: str) -> None:
    assert kind_of(model(name)) == KINDS[name]
    assert not writes_text(model(name)), "a decoder has a cache, and these encoders write none"


def test_an_encoder_decoder_is_one_as_a_whole_and_its_encoder_alone_is_not() -> None:
    assert kind_of(t5(transformers.T5ForConditionalGeneration)) == "seq2seq"
    alone = t5(transformers.T5EncoderModel)
    assert not is_seq2seq(alone)
    assert kind_of(alone) == "encoder"


def test_the_same_architecture_may_be_a_decoder_or_an_encoder() -> None:
    assert kind_of(on_meta(transformers.BertForMaskedLM, bert())) == "encoder"
    decoder = on_meta(transformers.BertLMHeadModel, transformers.BertConfig(**{**bert().to_dict(), "is_decoder": True}))
    assert kind_of(decoder) == "decoder"
    assert not writes_text(decoder)


def test_a_model_that_generates_without_a_cache_writes_text() -> None:
    sizes = {"vocab_size": 61, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    first = on_meta(transformers.OpenAIGPTLMHeadModel, transformers.OpenAIGPTConfig(**sizes))
    assert kind_of(first) == "encoder"
    assert writes_text(first)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_the_contract_of_a_kind_runs_the_model_as_it_is(name: str) -> None:
    wrapper, contract = CONTRACTS[KINDS[name]](model(name))
    with torch.no_grad():
        outputs = wrapper(*contract.inputs.values())
    assert contract.outputs is not None
    found = dict(zip(contract.outputs, outputs, strict=True))
    given = {n: t for n, t in contract.inputs.items() if "." not in n and n != "position_ids"}
    if name == "llama":  # its example has a past of zeros, which counts
        assert list(found)[1:] == [n.replace("past_key_values.", "present.") for n in contract.inputs if "." in n]
        assert found["present.1.value"].shape[2] == given["attention_mask"].shape[1]
    else:
        with torch.no_grad():
            torch.testing.assert_close(found["logits"], model(name)(**given).logits)
