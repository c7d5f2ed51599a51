"""The pull: what draws masked weights towards zero, harder and harder, without being remembered by the first moment.

    u = M + lambda(t) (1 - m) W,   lambda(t) rises to its end over the first part of the steps and stays there

M is the first moment, of the gradients alone; u is what a step uses in its place, and what the second moment takes the
square of. Source: AST, arXiv 2407.20584, sections on annealed SR-STE.
"""

from typing import Literal

import torch
from torch import Tensor

Unit = Literal["gradient", "absolute"]
_TINY = 1e-30  # below any size of weights: of none at all there is nothing to pull


def strength(step: int, steps: int, ramp: float, decay: float) -> float:
    """The strength at a step: 0 at the first, `decay` from `ramp` of all steps on."""
    return decay * min(1.0, step / max(1.0, ramp * steps))


def pull(weight: Tensor, gradient: Tensor, kept: Tensor, strength: float, unit: Unit) -> Tensor:
    """What is added to the first moment of a weight: `strength` times what is masked of it.

    In the unit of gradients a masked weight as large as the weights are in the mean (root mean square) is pulled as
    hard as `strength` mean gradients of this step, so that it depends neither on the loss's scale nor on the batch's.
    """
    masked = strength * torch.where(kept, 0.0, weight)
    if unit == "absolute":
        return masked
    return masked * (root_mean_square(gradient) / root_mean_square(weight).clamp_min(_TINY))


def root_mean_square(tensor: Tensor) -> Tensor:
    return tensor.float().square().mean().sqrt()
