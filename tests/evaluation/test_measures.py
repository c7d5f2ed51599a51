"""What is measured before and after is measured on all of the same text."""

import math

import pytest
import torch

from graphprune.data.calibration import Text
from graphprune.evaluation.measures import held_out_perplexity, speed_measure
from graphprune.running.timing import Rate
from tests.support.tiny_llama import tiny_graph
from tests.support.tiny_work import tiny_pair

pytestmark = pytest.mark.xdist_group("llama")
CPU = torch.device("cpu")
TEXT = Text((), torch.randint(3, 60, (3000,), generator=torch.Generator().manual_seed(0)), 12_000, None)


def test_both_models_predict_every_token_and_bytes_are_those_of_the_text() -> None:
    source, _, cut = tiny_pair()
    found = [held_out_perplexity(graph, TEXT, CPU) for graph in (source, cut)]
    assert [each.tokens for each in found if each] == [2999, 2999]
    for each in found:
        assert each is not None
        assert each.bits_per_byte is not None
        assert each.bits_per_byte * 12_000 == pytest.approx(each.nats_per_token * 2999 / math.log(2))


def test_a_text_of_one_token_is_not_measured_on() -> None:
    assert held_out_perplexity(tiny_graph(), Text((), torch.tensor([1]), 1, None), CPU) is None


def test_a_speed_says_its_runs_and_none_is_told_where_they_are_far_apart() -> None:
    told = speed_measure("decode", Rate(10.0, 0.02, 5), Rate(20.0, 0.04, 5))
    assert (told.before, told.after, told.runs, told.note) == (10.0, 20.0, 5, "median of 5 runs, spread 4%")
    for wide in ((Rate(10.0, 0.4, 5), Rate(20.0, 0.0, 5)), (Rate(10.0, 0.0, 5), Rate(20.0, 0.4, 5))):
        measure = speed_measure("decode", *wide)
        assert (measure.before, measure.after, measure.spread) == (None, None, 0.4)
        assert "40% apart" in measure.note
