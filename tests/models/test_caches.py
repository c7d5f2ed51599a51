"""What the layers of a cache keep: read by name, put back by name, and the model goes on as it would have."""

from typing import Any

import pytest
import torch
import transformers

from graphprune.ir.contract import State
from graphprune.models.caches import fill, keeps_keys, layer_tensors, read_states
from graphprune.models.decoder import cache_argument, new_cache
from tests.support.families import model

DECODERS = ["llama", "falcon", "mamba", "qwen3_next", "falcon_h1"]
IDS = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(0))


def after(name: str, ids: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
    argument = str(cache_argument(model(name)))
    with torch.no_grad():
        output = model(name)(input_ids=ids, **{argument: cache}, use_cache=True)
    return output.logits, output[argument]


def test_the_name_of_a_cache_is_that_of_this_transformers() -> None:
    usual = "cache" if hasattr(transformers.modeling_outputs.ModelOutput, "cache_params") else "past_key_values"
    assert cache_argument(model("llama")) == usual
    assert cache_argument(model("mamba")) == ("cache" if usual == "cache" else "cache_params")
    xlm = transformers.XLMConfig(vocab_size=64, emb_dim=32, n_layers=1, n_heads=2)
    assert cache_argument(transformers.XLMWithLMHeadModel(xlm)) is None


def names(cache: Any) -> list[list[str]]:
    return [[part for part, _ in layer_tensors(layer)] for layer in cache.layers]


@pytest.mark.parametrize("name", DECODERS)
def test_a_cache_that_is_read_and_filled_goes_on_as_if_it_were_the_same(name: str) -> None:
    _, cache = after(name, IDS[:, :4], new_cache(model(name)))
    other = new_cache(model(name))
    for layer, empty in zip(cache.layers, other.layers, strict=True):
        fill(empty, {part: tensor.clone() for part, tensor in layer_tensors(layer)})
    assert names(other) == names(cache)
    for token in (4, 5, 6):
        wanted, cache = after(name, IDS[:, token : token + 1], cache)
        found, other = after(name, IDS[:, token : token + 1], other)
        torch.testing.assert_close(found, wanted)
        fresh, _ = after(name, IDS[:, : token + 1], new_cache(model(name)))
        torch.testing.assert_close(found[:, -1], fresh[:, -1], rtol=1e-3, atol=1e-4)


def test_the_parts_are_named_by_what_the_layer_does() -> None:
    kept = {name: names(after(name, IDS[:, :4], new_cache(model(name)))[1]) for name in DECODERS}
    assert kept["llama"] == kept["falcon"] == [["key", "value"]] * 2
    assert kept["mamba"] == [["conv", "recurrent"]] * 2
    assert kept["qwen3_next"] == [["conv", "recurrent"], ["key", "value"]]
    assert kept["falcon_h1"] == [["key", "value", "conv", "recurrent"]] * 2
    assert {name: keeps_keys(new_cache(model(name))) for name in DECODERS} == {
        "llama": True,
        "falcon": True,
        "mamba": False,
        "qwen3_next": True,
        "falcon_h1": True,
    }


def test_only_what_lies_along_the_tokens_has_a_past() -> None:
    states = read_states(after("qwen3_next", IDS[:, :4], new_cache(model("qwen3_next")))[1])
    assert [(state.layer, state.part) for state in states] == [
        (0, "conv"),
        (0, "recurrent"),
        (1, "key"),
        (1, "value"),
    ]
    assert states[2] == State(1, "key", ("batch", 2, "past", 8), torch.float32)
    assert states[2].dynamic == {0: "batch", 2: "past"}
    assert all(state.dynamic == {0: "batch"} for state in states[:2])
    assert states[0].shape == ("batch", 2 * 2 * 8 + 4 * 6, 3), "a window as wide as the convolution"


def test_an_empty_cache_keeps_nothing() -> None:
    empty = new_cache(model("llama"))
    assert read_states(empty) == ()
    fill(empty.layers[0], {})
    assert not empty.layers[0].is_initialized
    assert not keeps_keys(transformers.DynamicCache(config=model("mamba").config))
