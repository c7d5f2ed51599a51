"""The context length is read in one way, from whatever names it."""

from types import SimpleNamespace

import pytest

from graphprune.context import NAMES, stated_context


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_known_in_both_forms(name: str) -> None:
    assert stated_context({name: 77}) == stated_context(SimpleNamespace(**{name: 77})) == 77


def test_a_model_within_a_model_says_it() -> None:
    assert stated_context({"text_config": {"n_positions": 5}}) == 5
    inner = SimpleNamespace(max_position_embeddings=9)
    assert stated_context(SimpleNamespace(get_text_config=lambda: inner)) == 9


@pytest.mark.parametrize("config", [None, {}, {"max_position_embeddings": -1}, {"n_positions": "many"}])
def test_what_says_nothing_has_none(config: object) -> None:
    assert stated_context(config) is None


def test_a_nested_llama_is_found() -> None:
    from transformers import LlamaConfig, LlavaConfig

    assert stated_context(LlavaConfig(text_config=LlamaConfig(max_position_embeddings=123))) == 123
