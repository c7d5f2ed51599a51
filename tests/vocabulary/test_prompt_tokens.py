"""Tokenizers with a prompt: whatever rule puts tokens around texts, the prompt stands right before them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, processors

from graphprune.data.stream.lead import Lead, begins_with, find_lead
from graphprune.data.tokens import load_tokenizer
from graphprune.errors import UsageError
from graphprune.ir.graph import Source
from graphprune.vocabulary.prompt_tokens import prompted_source
from tests.support.tiny_source import write_source

pytestmark = pytest.mark.xdist_group("prompt_tokens")
BEGIN = [("<s>", 0)]
RULES: dict[str, Any] = {
    "none": None,
    "bytes": processors.ByteLevel(trim_offsets=False),
    "template": processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=BEGIN),
    "both": processors.Sequence(
        [processors.ByteLevel(), processors.TemplateProcessing(single="<s> $A", pair="$A $B", special_tokens=BEGIN)]
    ),
    "end": processors.TemplateProcessing(single="$A <s>", pair="$A $B <s>", special_tokens=BEGIN),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("model"))


def with_rule(model: Path, folder: Path, rule: Any) -> Path:
    """A copy of a model's tokenizer with another rule."""
    folder.mkdir()
    for path in model.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    for name in ("chat_template.jinja", "config.json", "generation_config.json"):
        if (model / name).is_file():
            (folder / name).write_bytes((model / name).read_bytes())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    data = json.loads(tokenizer.to_str())
    data["post_processor"] = None if rule is None else json.loads(rule.__getstate__())
    (folder / "tokenizer.json").write_text(json.dumps(data))
    return folder


def prompted(files: Path, folder: Path, rows: int = 300, tokens: int = 3) -> Source:
    return prompted_source(Source(kind="decoder", folder=files), rows, tokens, folder)


@pytest.mark.parametrize("name", RULES)
def test_the_prompt_stands_before_every_text(name: str, model: Path, tmp_path: Path) -> None:
    files = with_rule(model, tmp_path / "files", RULES[name])
    made = prompted(files, tmp_path / "made")
    assert made.files == tmp_path / "made"
    old, new = load_tokenizer(files), load_tokenizer(tmp_path / "made")
    first = [0] if name in ("template", "both") else []
    prompt = list(range(300, 303))
    for text in ("the cat", "a mat and the dog"):
        before, after = old(text)["input_ids"], new(text)["input_ids"]
        assert after == [*first, *prompt, *before[len(first) :]]
        assert new(text, add_special_tokens=False)["input_ids"] == old(text, add_special_tokens=False)["input_ids"]
        assert new.decode(after, skip_special_tokens=True) == old.decode(before, skip_special_tokens=True)
    assert find_lead(new) == Lead((300, 301, 302), first[0] if first else None)
    assert find_lead(old) == Lead()
    assert list(begins_with(new)) == [*first, *prompt]
    new.save_pretrained(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again")("the cat")["input_ids"] == new("the cat")["input_ids"]


def test_rows_that_no_token_has_stay_without_a_text(model: Path, tmp_path: Path) -> None:
    made = prompted(model, tmp_path / "made", rows=304)
    tokenizer = load_tokenizer(tmp_path / "made")
    assert tokenizer("a")["input_ids"][:3] == [304, 305, 306]
    assert tokenizer.convert_ids_to_tokens([300, 303]) == ["<|unused_300|>", "<|unused_303|>"]
    assert made.companions is not None
    assert json.loads((made.companions / "generation_config.json").read_text())["suppress_tokens"] == [304, 305, 306]


def test_configurations_know_the_new_rows_and_never_choose_them(model: Path, tmp_path: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(model)
    generation = transformers.GenerationConfig(suppress_tokens=[5])
    source = Source(kind="decoder", folder=model, config=config, generation_config=generation)
    made = prompted_source(source, 300, 2, tmp_path / "made")
    assert (made.model_config.vocab_size, config.vocab_size) == (302, 300)
    assert made.generation_config is not None
    assert made.generation_config.suppress_tokens == [5, 300, 301]
    assert generation.suppress_tokens == [5]
    assert json.loads((tmp_path / "made" / "config.json").read_text())["vocab_size"] == 302
    assert replace(made, companions=None).files == model


@pytest.mark.parametrize("known", [None, transformers.GenerationConfig(suppress_tokens=[7], top_k=3)])
def test_generation_is_configured_where_it_was_not(known: Any, model: Path, tmp_path: Path) -> None:
    files = with_rule(model, tmp_path / "files", None)
    (files / "generation_config.json").unlink()
    prompted_source(Source(kind="decoder", folder=files, generation_config=known), 300, 1, tmp_path / "made")
    made = json.loads((tmp_path / "made" / "generation_config.json").read_text())
    assert made["suppress_tokens"] == ([300] if known is None else [7, 300])
    assert made.get("top_k") == (None if known is None else 3)


def test_what_has_no_room_for_a_prompt_is_refused(model: Path, tmp_path: Path) -> None:
    prompted(model, tmp_path / "once")
    with pytest.raises(UsageError, match="a prompt already"):
        prompted(tmp_path / "once", tmp_path / "twice", rows=303)
    with pytest.raises(UsageError, match="300 tokens and the model 290 rows"):
        prompted(model, tmp_path / "short", rows=290)
    bert = with_rule(model, tmp_path / "bert", processors.BertProcessing(("<s>", 0), ("<s>", 0)))
    with pytest.raises(UsageError, match="BertProcessing, into which"):
        prompted(bert, tmp_path / "made")
