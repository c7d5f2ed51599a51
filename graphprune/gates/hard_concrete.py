"""Hard-concrete gates: random factors in [0, 1] that are 0 or 1 with a probability that has a gradient.

Of a position a and u uniform in (0, 1):  y = sigmoid((log u - log(1 - u) + a) / b),  z = clip(y (h - l) + l, 0, 1)
with (l, h) = (-0.1, 1.1) and temperature b. z is above 0 with probability 1 - sigmoid(b log(-l / h) - a).
Source: Louizos et al., arXiv 1712.01312; Sheared LLaMA, arXiv 2310.06694, whose code has b = 2/3 and whose text 0.83.
"""

import math

import torch
from torch import Tensor

LOW, HIGH = -0.1, 1.1
LEAST, MOST = math.log(0.01), math.log(100)  # positions go no further
TEMPERATURE = 2 / 3
_TINY = 1e-6
_SHARPER = 0.8  # what the code multiplies positions by where nothing is drawn


def draw_factors(position: Tensor, uniform: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Factors [units] for positions and uniform numbers of the same shape, with gradients to the positions."""
    u = uniform.clamp(_TINY, 1 - _TINY)
    y = torch.sigmoid((torch.log(u) - torch.log1p(-u) + position) / temperature)
    return (y * (HIGH - LOW) + LOW).clamp(0, 1)


def keep_probability(position: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """The probability that a factor is above 0."""
    return 1 - torch.sigmoid(temperature * math.log(-LOW / HIGH) - position).clamp(_TINY, 1 - _TINY)


def settled_factors(position: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """The factors where nothing is drawn."""
    y = torch.sigmoid(_SHARPER * position / temperature)
    return (y * (HIGH - LOW) + LOW).clamp(0, 1)


def least_share(temperature: float = TEMPERATURE) -> float:
    """The least share of units that gates can be expected to keep: positions end at `LEAST`."""
    return float(keep_probability(torch.tensor(LEAST, dtype=torch.float64), temperature))
