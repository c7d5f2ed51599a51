"""Masks: which entries of dense weights run now, by their size, and a graph that runs them and trains them all."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from graphprune.analysis.linear_calls import LinearCall
from graphprune.weights.patterns import Pattern


@final
class StraightThrough(torch.autograd.Function):
    """The product of a weight and what is kept of it; its gradient goes to all of the weight (arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, kept: Tensor) -> Tensor:
        return weight * kept

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def kept_part(weight: Tensor, kept: Tensor) -> Tensor:
    """What is kept of a weight, as a function of all of it."""
    return StraightThrough.apply(weight, kept)  # type: ignore[no-any-return, no-untyped-call]


def largest(calls: Sequence[LinearCall], weights: Mapping[str, Tensor], pattern: Pattern) -> dict[str, Tensor]:
    """What a pattern keeps of the weight of each call: its largest entries, as truth values in its shape."""
    found = {call.weight: pattern.keep(call.matrix(weights[call.weight].detach()).abs()) for call in calls}
    return {call.weight: call.matrix(found[call.weight]).contiguous() for call in calls}


def changed(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The share of the entries that two masks of the same weights differ in."""
    differing = sum(int((kept != other[name]).sum()) for name, kept in one.items())
    return differing / sum(kept.numel() for kept in one.values())
