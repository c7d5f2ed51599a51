"""Blocks in a row, captured as they are: material for what finds, divides and continues them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.frontend.source import Positional
from graphprune.frontend.tracing.normalise import capture_module
from graphprune.ir.graph import Graph
from graphprune.models.contract import Contract

CONTRACT = Contract({"x": torch.randn(3, 4, generator=torch.Generator().manual_seed(0))}, {"x": {0: "batch"}})


class Block(nn.Module):
    """A residual block with a constant of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.linear(x)) * torch.tensor([1.0, 2.0, 3.0, 4.0])  # type: ignore[no-any-return]


class Row(nn.Module):
    """Blocks one after the other, what is done between them, and a stem where there is one.

    Parameters of a block depend on its number alone.
    """

    def __init__(
        self, count: int, between: Callable[[int, Tensor], Tensor] = lambda index, x: x, stem: bool = False
    ) -> None:
        super().__init__()
        self.head, self.between, blocks = nn.Linear(4, 2), between, list[Any]()
        self.stem = nn.Linear(4, 4) if stem else nn.Identity()
        for index in range(count):
            torch.manual_seed(index)
            blocks.append(Block())
        self.layers = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for index, layer in enumerate(self.layers):
            x = self.between(index, layer(x))
        return self.head(x)  # type: ignore[no-any-return]


def traced(row: Row, blocks: int | None = None) -> Graph:
    """The graph of a row, or of its first blocks alone: every call as it was traced."""
    members = row.layers._modules
    row.layers._modules = dict(list(members.items())[:blocks])
    try:
        return capture_module(Positional(row.eval()), CONTRACT, "module.")
    finally:
        row.layers._modules = members
