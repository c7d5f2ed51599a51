"""The contract: names of inputs, outputs and states, and what they say of the model."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from graphprune.ir import contract
from graphprune.ir.contract import State, context_length, present_of, rows_of_ids, vocabulary_size
from graphprune.ir.types import TensorType
from tests.support.families import families, graph

LLAMA = pytest.mark.xdist_group("llama")


def test_a_state_goes_in_and_comes_out_under_the_names_of_its_layer() -> None:
    state = State(3, "key", ("batch", 2, "past", 8), torch.float32)
    assert (state.name, state.present) == ("past_key_values.3.key", "present.3.key")
    assert present_of(state.name) == state.present
    assert state.dynamic == {0: "batch", 2: "past"}


@pytest.mark.parametrize(
    ("name", "goes_in", "comes_out", "attended"),
    [
        ("past_key_values.0.key", True, False, True),
        ("past_key_values.11.value", True, False, True),
        ("past_key_values.1.conv", True, False, False),
        ("past_key_values.1.recurrent2", True, False, False),
        ("present.0.key", False, True, False),
        ("input_ids", False, False, False),
        ("key", False, False, False),
    ],
)
def test_names_say_what_they_are(name: str, goes_in: bool, comes_out: bool, attended: bool) -> None:
    found = contract.is_state(name), contract.is_present(name), contract.is_attended(name)
    assert found == (goes_in, comes_out, attended)


@pytest.mark.parametrize("name", families(["llama", "mamba", "qwen3_next"]))
def test_every_state_of_a_decoder_comes_out_again_in_its_type(name: str) -> None:
    """Sizes that may differ are those of the text: a state of a recurrence has none."""
    captured = graph(name)
    states = [n for n in captured.inputs if contract.is_state(n)]
    assert [present_of(n) for n in states] == [n for n in captured.outputs if contract.is_present(n)]
    for state in states:
        before, after = captured.placeholders[state].meta["value"], captured.results[present_of(state)].meta["value"]
        grows = [dim for dim, (a, b) in enumerate(zip(before.shape, after.shape, strict=True)) if a != b]
        assert (before.dtype, grows) == (after.dtype, [2] if contract.is_attended(state) else [])


@LLAMA
def test_the_vocabulary_is_read_off_the_logits() -> None:
    captured = graph("llama")
    assert vocabulary_size(captured) == 61
    logits = captured.fork()
    node = logits.results["logits"]
    node.meta["value"] = TensorType(torch.float32, (*node.meta["value"].shape[:2], 17))
    assert vocabulary_size(logits) == 17, "not off the configuration"


@pytest.mark.xdist_group("bert")
def test_without_logits_the_configuration_says_it() -> None:
    captured = graph("bert")
    hidden = replace(captured, outputs=tuple(f"hidden.{k}" for k in range(len(captured.outputs))))
    assert vocabulary_size(hidden) == 61
    assert vocabulary_size(replace(hidden, source=replace(hidden.source, config=None))) is None


@LLAMA
@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"n_positions": 32}, 32),
        ({"max_position_embeddings": 64, "n_positions": 32}, 64),
        ({"max_position_embeddings": None, "n_positions": 32}, 32),
        ({}, None),
    ],
    ids=str,
)
def test_the_context_is_what_the_configuration_says(config: dict[str, object], length: int | None) -> None:
    captured = graph("llama")
    source = replace(captured.source, config=SimpleNamespace(**config))
    assert context_length(replace(captured, source=source)) == length


@LLAMA
def test_a_text_has_one_row_of_ids_and_sound_one_for_each_stream() -> None:
    captured = graph("llama").fork()
    assert rows_of_ids(captured) == 1
    ids = captured.placeholders["input_ids"]
    batch, sequence = ids.meta["value"].shape
    ids.meta["value"] = TensorType(torch.int64, (4 * batch, sequence))
    assert rows_of_ids(captured) == 4


@pytest.mark.xdist_group("cnn")
def test_a_model_without_ids_has_one_row() -> None:
    assert rows_of_ids(graph("cnn")) == 1
