"""Schedule: the learning rate of each step of a run."""

import math
from typing import Literal

Shape = Literal["wsd", "cosine", "constant"]


def learning_rate(
    step: int,
    total: int,
    peak: float,
    *,
    shape: Shape = "wsd",
    minimum: float = 0.0,
    warmup: float = 0.05,
    decay: float = 0.10,
) -> float:
    """The rate of step `step` (from 0) of `total`.

    `warmup` and `decay` are shares of all steps, rounded to whole steps. The rate rises linearly and is at the peak in
    the last step of the warm-up. `wsd` stays there and falls linearly over the last `decay` steps, `cosine` falls from
    the end of the warm-up, `constant` never falls. The last step of both has `minimum`.
    Source: Adapt-Pruner, arXiv 2502.03460 (5 % warm-up, last 10 % decay; its first step has the rate 0, here none has).
    """
    rising = round(warmup * total)
    if step < rising:
        return peak * (step + 1) / rising
    if shape == "constant":
        return peak
    falling = total - rising if shape == "cosine" else min(round(decay * total), total - rising)
    done = step - (total - falling) + 1
    if done <= 0:
        return peak
    share = done / falling
    left = (1 + math.cos(math.pi * share)) / 2 if shape == "cosine" else 1 - share
    return minimum + (peak - minimum) * left
