"""Problems of one linear call, with inputs that go together, in float64."""

import torch
from torch import Tensor

from graphprune.pruning.sparsity.problem import Problem


def inputs(width: int, tokens: int = 400, seed: int = 0) -> Tensor:
    """Values [tokens, width] that are correlated, of different size."""
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(tokens, width, generator=draw, dtype=torch.float64) @ torch.randn(
        width, width, generator=draw, dtype=torch.float64
    )
    return mixed * torch.logspace(-0.5, 0.5, width, dtype=torch.float64)


def problem(outputs: int = 6, width: int = 8, moved: float = 0.0, seed: int = 0) -> Problem:
    """A problem whose call reads something else than in the dense model, by so much."""
    draw = torch.Generator().manual_seed(seed + 1)
    weight = torch.randn(outputs, width, generator=draw, dtype=torch.float64)
    x = inputs(width, seed=seed)
    now = x + moved * torch.randn(x.shape, generator=draw, dtype=torch.float64)
    return Problem.of(weight, now.T @ now / len(x), weight @ x.T @ now / len(x))
