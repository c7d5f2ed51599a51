"""A capture that fails says where in the model, on one line, and prints nothing of its own."""

import pytest
import torch
from torch import Tensor, nn

from graphprune.errors import CaptureError
from graphprune.frontend.source import capture


class Deciding(nn.Module):
    """Branches on data, which no export can follow."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Counting(nn.Module):
    """Changes a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)  # type: ignore[operator]
        return x + self.calls


def test_names_the_line_and_the_module(capfd: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Deciding())
    with pytest.raises(CaptureError) as caught:
        capture(model, inputs={"x": torch.randn(2, 4)})
    text = str(caught.value)
    assert "test_failures.py" in text
    assert "of module.1 (if x.sum() > 0:)" in text
    assert "\n" not in text
    assert capfd.readouterr().err == ""


def test_a_buffer_that_changes_is_named() -> None:
    with pytest.raises(CaptureError, match="calls"):
        capture(Counting(), inputs={"x": torch.randn(2, 4)})
