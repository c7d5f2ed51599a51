"""Picks of places one after the other are slices; other picks stay."""

import torch

from graphprune.frontend.tracing.constant_picks import picks_to_slices
from tests.support.drafts import Drawing, check

_aten = torch.ops.aten


def test_consecutive_places_become_a_slice() -> None:
    drawing = Drawing()
    x = drawing.input("x", 2, 8)
    rising, falling = (drawing.tensor(f"constants.{i}", torch.tensor(p)) for i, p in enumerate(([4, 5], [5, 4])))
    before = """
  %0: float32[2, 2] = index.Tensor(x, [None, @constants.0])
  %1: float32[2, 2] = index.Tensor(x, [None, @constants.1])
outputs
  output.0 = %0
  output.1 = %1
"""
    after = """
  %0: float32[2, 2] = slice.Tensor(x, 1, 4, 6)
  %1: float32[2, 2] = index.Tensor(x, [None, @constants.1])
outputs
  output.0 = %0
  output.1 = %1
"""
    picks = [drawing.call(_aten.index.Tensor, x, [None, places]) for places in (rising, falling)]
    check(picks_to_slices, drawing.output(*picks), 1, before, after)
