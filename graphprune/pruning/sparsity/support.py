"""Support: least squares of weights of which some must be zero, for all outputs at once, by conjugate gradients."""

import torch
from torch import Tensor

_ROUNDS, _EXACT = 100, 1e-5


def solve_on_support(
    gram: Tensor, cross: Tensor, kept: Tensor, start: Tensor, rounds: int = _ROUNDS, exact: float = _EXACT
) -> Tensor:
    """The W [outputs, inputs] of least tr(W gram Wᵀ) - 2 tr(W crossᵀ) with zeros where nothing is kept.

    Every output has a support of its own, so there is no one matrix to factorise; each row goes its own way down, from
    `start`, preconditioned by the energy of inputs, until the residual is `exact` of what it was for zero weights.
    Inputs without energy have zeros.
    """
    energy = gram.diagonal()
    kept = kept & (energy > 0)
    inverse = torch.where(energy > 0, 1 / energy.clamp(min=1e-30), 0.0)
    weight = start * kept
    rest = (cross - weight @ gram) * kept
    limit = ((cross * kept).square() * inverse).sum(1) * exact**2
    even = rest * inverse
    size = (rest * even).sum(1)
    direction = even
    for _ in range(rounds):
        if bool((size <= limit).all()):
            break
        turned = (direction @ gram) * kept
        curve = (direction * turned).sum(1)
        step = torch.where((curve > 0) & (size > limit), size / curve.clamp(min=1e-30), 0.0)[:, None]
        weight = weight + step * direction
        rest = rest - step * turned
        even, before = rest * inverse, size
        size = (rest * even).sum(1)
        direction = even + torch.where(before > 0, size / before.clamp(min=1e-30), 0.0)[:, None] * direction
    return weight
