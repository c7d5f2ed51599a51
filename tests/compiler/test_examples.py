"""Examples of a compilation: which models are calibrated on them, and what the report says of embeddings."""

from pathlib import Path

import pytest

from graphprune.compiler.examples import agreement_measures, reads_examples, unread
from graphprune.encoders.agreement import Agreement
from graphprune.encoders.examples import Left
from graphprune.frontend.source import capture
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.resolution import resolve_recipe
from tests.support.families import graph
from tests.support.tiny_encoder import write_encoder


@pytest.mark.xdist_group("llama")
def test_encoders_with_a_tokenizer_read_examples_and_language_models_do_not(tmp_path: Path) -> None:
    encoder = capture(write_encoder(tmp_path))
    assert reads_examples(encoder, "stdlib")
    assert not reads_examples(graph("llama"), "stdlib")
    assert not reads_examples(graph("bert"), "stdlib"), "it has no folder with a tokenizer"
    error = unread(resolve_recipe(CompileOptions("x", "50%", tmp_path / "out", method="taylor")), graph("bert"))
    assert "the method taylor looks at text, so it needs" in str(error)


def test_each_embedding_has_its_rows_beside_the_source_s_one() -> None:
    one = Left((("last_hidden_state", Agreement(0.9, 0.8, 20)),))
    rows = [(row.name, row.before, row.after) for row in agreement_measures(one)]
    assert rows == [("held-out cosine", 1.0, 0.9), ("held-out rank correlation", 1.0, 0.8)]
    two = Left(
        (("image_embeds", Agreement(0.9, 0.8, 20)), ("text_embeds", Agreement(0.7, float("nan"), 20))), (1.0, 0.5)
    )
    rows = [(row.name, row.before, row.after) for row in agreement_measures(two)]
    assert rows[0] == ("held-out cosine of image_embeds", 1.0, 0.9)
    assert rows[3] == ("held-out rank correlation of text_embeds", 1.0, None)
    assert rows[4] == ("held-out recall@1", 1.0, 0.5)
