"""Chunks along symbolic sizes: the same pieces, and a size that stays free."""

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune.models.even_chunks import EvenChunks, even_chunks


class Thirds(nn.Module):
    """Three equal parts of rows that were put together before, as rotary embeddings of several axes have them."""

    def __init__(self, method: bool, dim: int = 0) -> None:
        super().__init__()
        self.method, self.dim = method, dim

    def forward(self, x: Tensor) -> Tensor:
        together = torch.cat([x, 2 * x, 3 * x], self.dim)
        parts = together.chunk(3, self.dim) if self.method else torch.chunk(together, 3, dim=self.dim)
        return parts[0] + 10 * parts[1] + 100 * parts[2]


def exported(module: nn.Module, dim: int, mode: Any) -> Any:
    with mode:
        size = torch.export.Dim("size")
        return torch.export.export(module, (torch.randn(4, 4),), dynamic_shapes=({dim: size},)).module()


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("method", [True, False])
def test_equal_parts_of_any_size_are_the_chunks(method: bool, dim: int) -> None:
    module = Thirds(method, dim)
    program = exported(module, dim % 2, EvenChunks())
    for size in (2, 5, 9):
        x = torch.randn(size, 4) if dim == 0 else torch.randn(4, size)
        torch.testing.assert_close(program(x), module(x))
        torch.testing.assert_close(program(x), 321 * x)


def test_without_it_the_size_is_fixed() -> None:
    """What it is for: where torch proves this by itself, the module can go."""
    with pytest.raises(Exception, match="size"):
        exported(Thirds(method=True), 0, contextlib.nullcontext())(torch.randn(9, 4))


def test_sizes_that_are_numbers_and_uneven_ones_are_left_to_torch() -> None:
    assert even_chunks(torch.arange(6), 3) is None
    with EvenChunks():
        assert [part.tolist() for part in torch.arange(5).chunk(3)] == [[0, 1], [2, 3], [4]]
        assert torch.zeros(4, 6).chunk(2, dim=1)[1].shape == (4, 3)
