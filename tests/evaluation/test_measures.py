"""What is measured before and after is measured on the same text, whatever the sizes of the two models."""

import pytest
import torch

from graphprune.data.calibration import Text
from graphprune.evaluation.measures import LARGEST_MEASURED, held_out_perplexity
from tests.support.tiny_llama import tiny_graph
from tests.support.tiny_work import tiny_pair

pytestmark = pytest.mark.xdist_group("llama")
CPU = torch.device("cpu")
TEXT = Text((), torch.randint(3, 60, (5000,), generator=torch.Generator().manual_seed(0)), 20_000, None)


def test_both_models_predict_the_same_tokens_where_there_is_more_text_than_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, _, cut = tiny_pair()
    count = source.parameter_count()
    monkeypatch.setattr("graphprune.evaluation.measures._WORK", 2 * count * 3000)
    monkeypatch.setattr("graphprune.evaluation.measures._WINDOW", 32)
    found = [held_out_perplexity(graph, TEXT, CPU, count) for graph in (source, cut)]
    assert [each.tokens for each in found if each] == [2999, 2999]
    assert all(each is not None and each.bits_per_byte is None for each in found), "the bytes are of the whole text"


def test_large_models_and_short_texts_are_not_measured() -> None:
    graph = tiny_graph()
    assert held_out_perplexity(graph, TEXT, CPU, LARGEST_MEASURED + 1) is None
    assert held_out_perplexity(graph, Text((), torch.tensor([1]), 1, None), CPU, 10) is None
