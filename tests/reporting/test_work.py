"""Work: what is left out means a run without training, measured on the processor; it is not changed, but replaced."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from graphprune.reporting.work import Work
from tests.support.tiny_work import tiny_work

pytestmark = pytest.mark.xdist_group("tiny_llama")


def test_what_is_left_out_is_a_run_without_training_on_the_processor() -> None:
    plain = tiny_work()
    work = Work(plain.asked, plain.recipe, plain.source, plain.groups, plain.graph, None)
    assert (list(work.metrics), dict(work.measured), work.target, work.vocabulary) == ([], {}, None, None)
    assert work.device == torch.device("cpu")


def test_one_work_is_not_changed_and_another_shares_its_graphs() -> None:
    work = tiny_work()
    with pytest.raises(FrozenInstanceError):
        work.seconds = 3  # type: ignore[attr-defined]
    other = replace(work, device=torch.device("meta"))
    assert work.device.type == "cpu"
    assert other.graph is work.graph
    assert other != work, "two pieces of work are never one, however alike"
    assert len({work, other, replace(work)}) == 3
