"""Models of no text that could be looked at are compiled by default, and the result says how units were ranked."""

from pathlib import Path

import pytest
import torch
import transformers

from graphprune.compiler.compile import compile_model
from graphprune.compiler.request import TEXTLESS, text_notes, without_text
from graphprune.errors import UsageError
from graphprune.frontend.source import capture
from graphprune.ir.contract import vocabulary_size
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.resolution import resolve_recipe
from tests.support.tiny_llama import tiny_graph


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    shape = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**shape, intermediate_size=32, max_position_embeddings=16, num_labels=3)
    folder = tmp_path_factory.mktemp("classifier")
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_the_default_ranks_by_magnitude_and_says_so(classifier: Path, tmp_path: Path) -> None:
    result = compile_model(CompileOptions(str(classifier), "80%", tmp_path / "out", backends=("huggingface",)))
    assert all(check.passed for check in result.checks)
    assert any(note.startswith(f"units were ranked by {TEXTLESS}") for note in result.notes)
    assert f"importance: {TEXTLESS}" in (tmp_path / "out" / "graphprune" / "recipe.yaml").read_text()


def test_what_was_asked_for_is_not_exchanged(classifier: Path, tmp_path: Path) -> None:
    options = CompileOptions(str(classifier), "80%", tmp_path / "out", importance="taylor", backends=("huggingface",))
    with pytest.raises(UsageError, match="use --importance magnitude"):
        compile_model(options)
    assert list(tmp_path.iterdir()) == []
    plain = CompileOptions("demo", "80%", tmp_path / "out")
    recipe = resolve_recipe(plain)
    assert without_text(recipe, plain, tiny_graph()) is recipe
    assert text_notes(recipe, recipe) == ()


def test_labels_are_no_tokens(classifier: Path) -> None:
    assert vocabulary_size(capture(classifier)) == 40
    assert vocabulary_size(tiny_graph()) == 64
