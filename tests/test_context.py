"""The context length is read in one way, from whatever names it."""

from types import SimpleNamespace

import pytest

from graphprune.context import NAMES, fitting, fitting_run, stated_context


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


@pytest.mark.parametrize("context", [*range(1, 14), 64, 511, 4096, None])
def test_runs_fit_every_context(context: int | None) -> None:
    for prompt, new in ((12, 12), (64, 32), (16, 48), (1, 1)):
        first, after = fitting_run(context, prompt, new)
        assert 1 <= first <= prompt
        assert 1 <= after <= new
        if context is None or prompt + new <= context:
            assert (first, after) == (prompt, new)
        else:
            assert first + after == max(2, context)
    assert fitting(context, 8) == min(8, context or 8)
