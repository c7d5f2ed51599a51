"""The model card: front matter a hub can read, code that runs, numbers as people write them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from graphprune.evaluation.measure import Measure
from graphprune.pipeline.recipes import Change, Recipe, read_recipe
from graphprune.reporting.card import describe_method, describe_training, model_card, read_card, row
from graphprune.reporting.results import Result
from graphprune.reporting.schema import Stage
from graphprune.reporting.verdict import Verdict
from tests.support.tiny_work import tiny_work

pytestmark = pytest.mark.xdist_group("tiny_llama")
MEASURES = (Measure("parameters", 12345, 678), Measure("held-out perplexity", None, 3.14159, note="of few words"))


def card(
    generic: bool = False, onnx: bool = False, source: Mapping[str, Any] | None = None, calls: Sequence[str] = ()
) -> str:
    work = tiny_work()
    named = replace(work.source.source, **(source or {}))
    result = Result(None, MEASURES, verdict=Verdict("kept", "1 bit a byte"))
    return model_card(replace(work, source=replace(work.source, source=named)), result, generic, onnx, calls)


def head_of(text: str) -> dict[str, Any]:
    """The front matter, as the hub reads it."""
    data: dict[str, Any] = yaml.safe_load(text.split("---\n", 2)[1])
    return data


def test_a_hub_reads_its_head_and_people_the_rest() -> None:
    text, work = card(), tiny_work()
    assert head_of(text) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["graphprune", "pruned"],
    }
    body = text.split("---\n", 2)[2]
    assert f"# tiny, pruned to {work.graph.parameter_count():,} parameters\n" in body
    assert "from `tiny`: method `taylor`" in body
    assert "/models" not in text, "where the source lies is nobody's business"
    assert "target `--target-params 60%`, seed 3. No recovery training.\n" in body
    assert "**quality kept**: 1 bit a byte.\n" in body
    assert "| parameters | 12,345 | 678 |  |\n| held-out perplexity | - | 3.142 | of few words |\n" in body


def test_a_model_of_a_hub_is_named_as_the_base() -> None:
    head = head_of(card(source={"name": "org/tiny", "revision": "abc"}))
    assert (head["base_model"], head["base_model_relation"]) == ("org/tiny", "finetune")


def test_language_and_licence_are_those_of_the_source(tmp_path: Path) -> None:
    said = "---\nlanguage: [en, de]\nlicense: llama3\nlicense_link: https://e.org/l\nbase_model: /home/x\n---\n"
    (tmp_path / "README.md").write_text(said)
    (tmp_path / "LICENSE").write_text("MIT License")
    head = head_of(card(source={"folder": tmp_path}, generic=True, onnx=True))
    assert (head["language"], head["license"], head["license_link"]) == (
        ["en", "de"],
        "llama3",
        "https://e.org/l",
    )
    assert "base_model" not in head
    assert head["tags"] == ["graphprune", "pruned", "custom_code", "onnx"]


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("Apache License\nVersion 2.0", {"license": "apache-2.0"}),
        (
            "ours",
            {"license": "other", "license_name": "that-of-the-source", "license_link": "LICENSE.txt"},
        ),
    ],
)
@pytest.mark.parametrize("damaged", ["---\n[: {\n---\n", "---\n- 1\n---\n", "\xff", "---\nlicense: [1, {}]\n---\n"])
def test_without_a_card_that_can_be_read_the_licence_is_that_of_its_file(
    text: str, licence: dict[str, str], damaged: str, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_bytes(damaged.encode("latin-1"))
    (tmp_path / "LICENSE.txt").write_text(text)
    head = head_of(card(source={"folder": tmp_path}))
    assert {name: value for name, value in head.items() if name.startswith("license")} == licence


def test_its_calls_are_shown_as_they_are() -> None:
    calls = ("from a import b\nb()\n", "import c\n")
    assert re.findall(r"```python\n(.*?)```", card(calls=calls), re.DOTALL) == list(calls)
    assert "```" not in card()


@pytest.mark.parametrize("generic", [False, True])
def test_a_model_that_brings_its_class_says_so(generic: bool) -> None:
    text = card(generic=generic)
    assert ("`modeling_graphprune.py` comes with the weights" in text) == generic
    assert ("it interprets the graph in config.json. After `import graphprune` it needs no" in text) == generic


def test_the_onnx_model_is_named_where_there_is_one() -> None:
    assert "onnxruntime" not in card()
    assert '`graphprune generate . "prompt"` runs it in onnxruntime.' in card(onnx=True)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (None, "cut by a saved plan"),
        (Recipe(name="mine"), "method `mine`, importance `taylor`, allocation `global`"),
        (
            read_recipe("taylor", [Change("stages", 3, ""), Change("prune.compensation", "least-squares", "")]),
            "in 3 stages, importance `taylor`",
        ),
    ],
)
def test_a_method_is_said_in_half_a_sentence(recipe: Recipe | None, said: str) -> None:
    found = describe_method(recipe)
    assert said in found
    assert ("compensation `least-squares`" in found) == (recipe is not None and recipe.stages == 3)


def stage(tokens: int) -> Stage:
    return Stage(stage=0, step=1, tokens=tokens, loss=1.0, held_out_first=None, held_out_last=None)


def test_training_is_said_in_tokens_of_all_stages() -> None:
    assert describe_training([stage(1500), stage(500)]) == "Trained on 2,000 tokens."
    assert describe_training([stage(0)]) == describe_training([]) == "No recovery training."


def test_bytes_have_a_unit() -> None:
    assert row(Measure("weights", 3 << 20, 1 << 10, "bytes")) == "| weights | 3.00 MiB | 1.00 KiB |  |"


def test_a_card_that_says_nothing_of_itself_is_read_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library would warn, on the terminal of whoever compiles."""
    (tmp_path / "README.md").write_text("# A model\n\nof words\n")
    assert read_card(tmp_path) == {}
    assert "".join(capsys.readouterr()) == ""
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    assert read_card(tmp_path) == {"license": "mit"}
