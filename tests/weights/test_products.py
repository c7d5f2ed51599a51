"""Products a part at a time: equal to the whole one, whichever way the weight lies."""

import pytest
import torch

from graphprune.weights import products
from graphprune.weights.products import multiply, multiply_and_add


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("part", [1, 70, 1 << 24])
def test_parts_are_the_whole(turned: bool, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_PART", part)
    draw = torch.Generator().manual_seed(0)
    held = (
        torch.randn(13, 30, generator=draw).bfloat16().t() if turned else torch.randn(30, 13, generator=draw).bfloat16()
    )
    x, bias = torch.randn(7, 30, generator=draw, dtype=torch.float64), torch.arange(13.0, dtype=torch.float64)
    torch.testing.assert_close(multiply(x, held, torch.float64), x @ held.double(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(multiply_and_add(bias, x, held, torch.float64), x @ held.double() + bias)
