"""Functional form: copies, views and changes in place become calls that make a new tensor."""

import operator

import pytest
import torch

from graphprune.errors import CaptureError
from graphprune.frontend.tracing.draft import Draft
from graphprune.frontend.tracing.functional import functional_form
from tests.support.drafts import Drawing, check

_aten = torch.ops.aten


def test_copies_are_left_out_and_views_and_splits_written_anew() -> None:
    drawing = Drawing()
    copied = drawing.call(_aten.detach.default, drawing.input("x", 2, 4))
    viewed = drawing.call(_aten.view.default, copied, [8])
    whole = drawing.call(_aten.slice.Tensor, viewed, 0, 0, 2**63 - 1)
    halves = drawing.call(_aten.chunk.default, whole, 2)
    before = """
  %0: float32[2, 4] = detach(x)
  %1: float32[8] = view(%0, [8])
  %2: float32[8] = slice.Tensor(%1, 0, 0, end)
  %3: (float32[4], float32[4]) = chunk(%2, 2)
  %4: float32[4] = getitem(%3, 0)
outputs
  output.0 = %4
"""
    after = """
  %0: float32[8] = reshape(x, [8])
  %1: (float32[4], float32[4]) = split_with_sizes(%0, [4, 4], 0)
  %2: float32[4] = getitem(%1, 0)
outputs
  output.0 = %2
"""
    check(functional_form, drawing.output(drawing.call(operator.getitem, halves, 0)), 4, before, after)


def test_later_readers_see_what_was_changed_in_place() -> None:
    drawing = Drawing()
    x = drawing.input("x", 3)
    made = drawing.call(_aten.empty_like.default, x)
    early = drawing.call(_aten.neg.default, made)
    drawing.call(_aten.add_.Tensor, made, x)
    late = drawing.call(_aten.neg.default, made)
    before = """
  %0: float32[3] = empty_like(x)
  %1: float32[3] = neg(%0)
  %2: float32[3] = add_.Tensor(%0, x)
  %3: float32[3] = neg(%0)
outputs
  output.0 = %1
  output.1 = %3
"""
    after = """
  %0: float32[3] = zeros_like(x)
  %1: float32[3] = neg(%0)
  %2: float32[3] = add.Tensor(%0, x)
  %3: float32[3] = neg(%2)
outputs
  output.0 = %1
  output.1 = %3
"""
    check(functional_form, drawing.output(early, late), 2, before, after)


@pytest.mark.parametrize("own", [{"w"}, set()])
def test_a_parameter_may_become_what_no_input_decides(own: set[str]) -> None:
    """A model that halves its own weights is captured; one that counts its runs, or keeps its input, is not."""
    drawing = Drawing()
    x, w = drawing.input("x", 3), drawing.tensor("w", torch.ones(3))
    halved, kept = drawing.call(_aten.mul.Tensor, w, 0.5), drawing.call(_aten.mul.Tensor, w, x)
    drawn = drawing.output(halved, kept)
    draft = Draft(drawn.graph, drawn.tensors, {"w": halved}, frozenset(own))
    if own:
        assert functional_form(draft) == 0
        draft = Draft(drawn.graph, drawn.tensors, {"w": kept}, frozenset(own))
    with pytest.raises(CaptureError, match="the model changes its own buffers when it runs: w"):
        functional_form(draft)
