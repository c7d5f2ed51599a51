"""Norms that leave removed units at other values than zero, and norms after them."""

import pytest
import torch
from torch import Tensor, nn

from graphprune.frontend.source import capture
from graphprune.ir.plan import Plan
from tests.support import oracle


class Stream(nn.Module):
    """A norm into a stream that is normed again; its weight is a parameter, or one more than it."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.branch, self.leave = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.weight, self.offset, self.norm = nn.Parameter(torch.randn(8)), offset, nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if not self.offset else self.weight + self.offset
        x = nn.functional.layer_norm(self.enter(x), (8,), weight)
        return self.leave(self.norm(x + self.branch(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_a_width_that_a_later_norm_would_count_is_locked(offset: float) -> None:
    wide, analysis, masked = oracle.analyses(capture(Stream(offset).eval(), inputs={"x": torch.randn(4, 5)}))
    stream = next(g for g in analysis.groups.groups if any(s.name == "branch.weight" for s in g.slots))
    if offset:
        assert stream.locked is not None
        assert "averaged over where a removed unit is not zero" in stream.locked
        return
    oracle.check_cut(wide, analysis, masked, Plan({stream.id: (0, 2, 5)}, statistics="exact"), 1e-9)


class Waves(nn.Module):
    """A function of the units goes through a norm; the cosine of a removed one is not zero, its sine is."""

    def __init__(self, wave: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.norm, self.leave, self.wave = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3), wave

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x)
        gated = torch.sigmoid(hidden) * hidden if self.wave == "gate" else getattr(torch, self.wave)(hidden)
        return self.leave(self.norm(gated))  # type: ignore[no-any-return]


@pytest.mark.parametrize("wave", ["sin", "cos", "gate"])
def test_functions_that_are_not_zero_at_zero(wave: str) -> None:
    wide, analysis, masked = oracle.analyses(capture(Waves(wave).eval(), inputs={"x": torch.randn(4, 5)}))
    hidden = next(g for g in analysis.groups.groups if any(s.name == "leave.weight" and s.dim == 1 for s in g.slots))
    assert (hidden.locked is not None) == (wave == "cos")
    if wave != "cos":
        oracle.check_cut(wide, analysis, masked, Plan({hidden.id: (0, 2, 5)}, statistics="exact"), 1e-9)
