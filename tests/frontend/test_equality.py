"""Blocks are equal where nothing but the values of parameters and their own index differs."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from graphprune.frontend.blocks.equality import same_block

CONFIG = SimpleNamespace(width=4)


class Own:
    """An object of a block's own, compared by what it holds."""

    def __init__(self, layer: int, scale: float) -> None:
        self.layer, self.scale = layer, scale


class Part(nn.Module):
    """A module with attributes of many kinds; `index` is its own."""

    own: Any

    def __init__(self, index: int) -> None:
        super().__init__()
        self.linear, self.config, self.index = nn.Linear(4, 4), CONFIG, index
        self.sizes, self.names, self.act = [1, 2], {"a": (3, None)}, partial(torch.relu)
        self.own = Own(index, 0.5)
        self.register_buffer("table", torch.arange(4))


def test_parameters_and_the_own_index_may_differ() -> None:
    assert same_block(Part(2), Part(5), 2, 5)
    assert same_block(nn.Sequential(Part(2), Part(2)), nn.Sequential(Part(5), Part(5)), 2, 5)


@pytest.mark.parametrize(
    "change",
    [
        {"index": 4},
        {"index": True},
        {"own": Own(5, 0.25)},
        {"sizes": [1, 3]},
        {"names": {"a": (3, 1)}},
        {"names": {"b": (3, None)}},
        {"act": partial(torch.sigmoid)},
        {"act": lambda x: x},
        {"table": torch.arange(4) + 1},
        {"linear": nn.Linear(4, 5)},
        {"linear": nn.Linear(4, 4).double()},
        {"linear": nn.Linear(4, 4, bias=False)},
        {"linear": nn.Linear(4, 4).requires_grad_(False)},
        {"more": 1},
    ],
    ids=lambda change: str(next(iter(change))),
)
def test_anything_else_may_not(change: dict[str, Any]) -> None:
    other = Part(5)
    for name, value in change.items():
        setattr(other, name, value)
    assert not same_block(Part(2), other, 2, 5)


def test_an_index_that_is_not_the_own_one_differs() -> None:
    assert not same_block(Part(3), Part(5), 2, 5)


def test_objects_that_hold_each_other_are_compared_once() -> None:
    first, second = Part(2), Part(5)
    for part in (first, second):
        vars(part.own)["back"] = part.own
    assert same_block(first, second, 2, 5)
