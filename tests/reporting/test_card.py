"""The model card: front matter a hub can read, code that runs, numbers as people write them."""

import re
from typing import Any

import pytest
import yaml

from graphprune.evaluation.measure import Measure
from graphprune.pipeline.recipes import Change, Recipe, read_recipe
from graphprune.reporting.card import describe_method, describe_training, model_card
from graphprune.reporting.schema import Stage
from tests.support.tiny_work import tiny_work

pytestmark = pytest.mark.xdist_group("tiny_llama")
MEASURES = (Measure("parameters", 12345, 678), Measure("held-out perplexity", None, 3.14159))


def card(generic: bool = False, onnx: bool = False, **options: Any) -> str:
    work = tiny_work()
    return model_card(work.graph, work.asked, work.recipe, MEASURES, generic, onnx, **options)


def test_a_hub_reads_its_head_and_people_the_rest() -> None:
    text, work = card(), tiny_work()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "transformers",
        "base_model": "/models/tiny",
        "tags": ["graphprune", "pruned"],
    }
    assert f"# tiny, pruned to {work.graph.parameter_count():,} parameters\n" in body
    assert "from `/models/tiny`: method `taylor`" in body
    assert "target `--target-params 60%`, seed 3. No recovery training.\n" in body
    assert "| parameters | 12,345 | 678 |\n| held-out perplexity | - | 3.142 |\n" in body


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
    assert "Trained on 2,000 tokens." in card(training=[stage(2000)])


def test_bytes_have_a_unit() -> None:
    work = tiny_work()
    text = model_card(work.graph, work.asked, None, (Measure("weights", 3 << 20, 1 << 10, "bytes"),), False, False)
    assert "| weights | 3.00 MiB | 1.00 KiB |" in text
