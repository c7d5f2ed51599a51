"""Bounds that picked places keep anyway are left out, and no others."""

import operator

import torch
from torch import Tensor, nn

from graphprune import capture
from graphprune.frontend.tracing.idle_clamps import drop_idle_clamps
from tests.support.drafts import Drawing, check

_aten = torch.ops.aten


def test_bounds_on_picked_places_are_left_out() -> None:
    drawing = Drawing()
    picked = drawing.call(_aten.topk.default, drawing.input("x", 2, 6), 2)
    places = drawing.call(operator.getitem, picked, 1)
    before = """
  %0: (float32[2, 2], int64[2, 2]) = topk(x, 2)
  %1: int64[2, 2] = getitem(%0, 1)
  %2: int64[2, 2] = clamp(%1, 0, 5)
  %3: int64[2, 2] = clamp(%1, 1, 5)
outputs
  output.0 = %2
  output.1 = %3
"""
    after = """
  %0: (float32[2, 2], int64[2, 2]) = topk(x, 2)
  %1: int64[2, 2] = getitem(%0, 1)
  %2: int64[2, 2] = clamp(%1, 1, 5)
outputs
  output.0 = %1
  output.1 = %2
"""
    bounds = [drawing.call(_aten.clamp.default, places, low, 5) for low in (0, 1)]
    check(drop_idle_clamps, drawing.output(*bounds), 1, before, after)


class Chosen(nn.Module):
    """The largest of six scores, looked up in a table after bounds on their places."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high, self.table = low, high, nn.Parameter(torch.randn(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        places = x.topk(2, dim=-1)[1].reshape(-1)
        return self.table[places.clamp(self.low, self.high)]


def test_bounds_are_left_out_where_they_bound_nothing() -> None:
    """So the places stay those of an axis, as transformers 5.17 bounds the experts that a router picked."""
    for low, high, there in ((0, 5, False), (-1, 9, False), (0, 4, True), (1, 5, True)):
        module, x = Chosen(low, high).eval(), torch.randn(4, 6)
        graph = capture(module, inputs={"x": torch.randn(3, 6)})
        assert any(node.target is _aten.clamp.default for node in graph.nodes) is there
        with torch.no_grad():
            torch.testing.assert_close(graph(x)[0], module(x))
