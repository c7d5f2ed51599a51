"""Assertions are left out: the types say the same."""

import torch

from graphprune.frontend.tracing.assertions import drop_assertions
from tests.support.drafts import Drawing, check

_aten = torch.ops.aten


def test_assertions_are_left_out() -> None:
    drawing = Drawing()
    x = drawing.input("x", 2, 3)
    drawing.call(_aten._assert_tensor_metadata.default, x, [2, 3])
    before = """
  %0: size None = _assert_tensor_metadata(x, [2, 3])
  %1: float32[2, 3] = relu(x)
outputs
  output.0 = %1
"""
    after = """
  %0: float32[2, 3] = relu(x)
outputs
  output.0 = %0
"""
    check(drop_assertions, drawing.output(drawing.call(_aten.relu.default, x)), 1, before, after)
