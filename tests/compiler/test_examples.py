"""Examples of a compilation: for which models there are any, and what is said of what is left."""

import pytest

from graphprune.compiler.examples import agreement_measures, reads_examples, unread
from graphprune.encoders.agreement import Agreement
from graphprune.encoders.examples import Left
from graphprune.pipeline.recipes import read_recipe
from graphprune.reporting.verdict import judge_embeddings
from tests.support.families import graph as graph_of
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("clip")
GOOD, WORSE, BAD = (Agreement(cosine, ranks, 40) for cosine, ranks in ((0.99, 0.97), (0.9, 0.8), (0.4, 0.1)))


def test_a_language_model_and_one_without_files_have_none() -> None:
    assert not reads_examples(tiny_graph(), "stdlib")
    assert not reads_examples(graph_of("clip"), "pairs.jsonl")


def test_what_cannot_be_looked_at_is_told_by_what_the_model_takes() -> None:
    recipe = read_recipe("mope-clip")
    assert "looks at pairs of an image and a text" in str(unread(recipe, graph_of("clip")))
    assert "an encoder of texts with a tokenizer" in str(unread(recipe, tiny_graph()))


def test_embeddings_are_named_where_there_are_several() -> None:
    one, two = Left((("last_hidden_state", GOOD),)), Left((("image_embeds", GOOD), ("text_embeds", BAD)), (1.0, 0.5))
    assert [m.name for m in agreement_measures(one)] == ["held-out cosine", "held-out rank correlation"]
    rows = {m.name: (m.before, m.after) for m in agreement_measures(two)}
    assert rows["held-out cosine of text_embeds"] == (1.0, 0.4)
    assert rows["held-out recall@1"] == (1.0, 0.5)
    assert agreement_measures(Left()) == ()


def test_the_verdict_is_that_of_the_worst_embedding() -> None:
    assert judge_embeddings([("image_embeds", GOOD)], False).standing == "kept"
    assert judge_embeddings([("image_embeds", GOOD), ("text_embeds", WORSE)], False).standing == "trainable"
    broken = judge_embeddings([("text_embeds", BAD)], True)
    assert broken.standing == "broken"
    assert broken.reason.endswith("keep more of it")
    assert judge_embeddings([("x", Agreement(1.0, float("nan"), 1))], False).standing == "unknown"
    assert judge_embeddings([], False).standing == "unknown"
