"""Saliency: how much of the loss hangs on a unit, seen in the gradients that training has anyway.

    s_U = sum over the entries w of unit U, in all of its weights, of |w dL/dw|

A first-order estimate of what the loss changes by where the unit goes; the mean over entries comes of dividing by how
many there are. Source: EfficientLLM, arXiv 2502.06663, whose figure names it; the formula is inferred.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from graphprune.pruning.signals.unit_sums import Key, Layout, line_sums, unit_scores, widen


def measure_saliency(layout: Layout, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The saliency of each unit of the layout's groups by the gradients that the parameters hold: float64 [units].

    A parameter without a gradient counts for nothing. An entry that two units own counts for both.
    """
    lines = dict[Key, Tensor]()
    with torch.no_grad():
        for name, keys in layout.by_parameter().items():
            gradient = parameters[name].grad
            if gradient is not None:
                entries = (widen(parameters[name].detach()) * widen(gradient)).abs_()
                lines |= {key: line_sums(layout, key, entries) for key in keys}
    return unit_scores(layout, lines)


def follow(before: Mapping[str, Tensor], now: Mapping[str, Tensor], memory: float) -> dict[str, Tensor]:
    """The running mean that keeps this share of what it was; it begins with the first values."""
    return {id: torch.lerp(value, before[id], memory) if id in before else value for id, value in now.items()}
