"""Moments as companions of the graph: what is read of an optimizer and put back is the same."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from graphprune.training.loop import advance
from graphprune.training.optimizer.moments import KINDS, read_moments, write_moments
from graphprune.training.session import Session, make_accelerator, prepare
from tests.support.rows import Rows
from tests.support.tiny_llama import tiny_graph
from tests.training.test_train import OPTIONS

pytestmark = pytest.mark.xdist_group("tiny_llama")


def session(states: Any) -> Session:
    options = replace(OPTIONS, states=states)
    return prepare(make_accelerator(options), tiny_graph(), options, Rows(), None, None, None)


@pytest.mark.parametrize("states", ["float32", "bf16", "int8"])
def test_what_is_read_and_written_is_the_same(states: Any) -> None:
    one, other = session(states), session(states)
    for step in range(2):
        advance(one, step)
    found = read_moments(one.optimizer, one.trainee.trainable)
    assert found.updates == 2
    for kind in KINDS:
        shapes = {name: tensor.shape for name, tensor in found.tensors[kind].items()}
        assert shapes == {name: p.shape for name, p in tiny_graph().parameters().items()}
    write_moments(other.optimizer, other.trainee.trainable, found)
    again = read_moments(other.optimizer, other.trainee.trainable)
    assert again.updates == 2
    for kind in KINDS:
        assert all(torch.equal(again.tensors[kind][name], tensor) for name, tensor in found.tensors[kind].items())
