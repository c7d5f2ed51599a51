"""Moments of what a linear call reads, as solvers of its weight need them: over tokens of which none rules."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphprune.errors import DataError
from graphprune.pruning.signals.token_weights import token_weights

_SMALLEST = 1e-8  # of an input's energy: what is left of it when its mean is taken away may be rounding alone


@dataclass(frozen=True, eq=False)
class Moments:
    """Means over tokens of one value x, in float64: `gram` is E[x xᵀ], `mean` is E[x].

    `values` are the batches [.., inputs] as they are, `weights` what each of their tokens counts, in all 1. Products
    within a batch are summed in `work`, those of all batches in float64.
    """

    values: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    gram: Tensor
    mean: Tensor
    name: str
    work: torch.dtype = torch.float64
    factors: dict[tuple[float, bool], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def cross(self, others: Iterable[Tensor], size: int) -> tuple[Tensor, Tensor]:
        """E[x yᵀ] and E[y] for another value y, of so many entries, of the same tokens."""
        moment, mean = self.gram.new_zeros(len(self.mean), size), self.gram.new_zeros(size)
        for x, y, weight in zip(self.values, others, self.weights, strict=True):
            add_products(moment, mean, x, y, weight, self.work)
        return moment, mean

    def solve(self, moment: Tensor, damping: float, centred: bool) -> Tensor:
        """The D [inputs, outputs] of least |x D - y|² with E[x yᵀ] given; each input is damped by its own energy."""
        if (damping, centred) not in self.factors:
            self.factors[damping, centred] = self.factorise(damping, centred)
        factor, scale = self.factors[damping, centred]
        return scale[:, None] * torch.cholesky_solve(scale[:, None] * moment, factor)

    def factorise(self, damping: float, centred: bool) -> tuple[Tensor, Tensor]:
        """The Cholesky factor of the damped second moments, or covariances, of inputs of energy 1, and their scales."""
        seen = self.gram - torch.outer(self.mean, self.mean) if centred else self.gram
        energy = torch.maximum(seen.diagonal(), _SMALLEST * self.gram.diagonal())
        scale = torch.where(energy > 0, energy.clamp(min=1e-300).rsqrt(), 0.0)
        even = seen * scale[:, None] * scale
        for ridge in (damping, damping + 1e-8, damping + 1e-5, damping + 1e-2):
            even.diagonal().fill_(1.0 + ridge)  # also of inputs where nothing comes in
            factor, failed = torch.linalg.cholesky_ex(even)
            if not bool(failed):
                return torch.as_tensor(factor), scale
        raise DataError(f"the activations before {self.name} are all alike; give more calibration text")


def add_products(moment: Tensor, mean: Tensor, x: Tensor, y: Tensor, weight: Tensor, work: torch.dtype) -> None:
    """Add one batch to E[x yᵀ] and E[y], which are in float64."""
    counts, wide = weight.to(work), y.flatten(0, -2).to(work)
    moment += (x.flatten(0, -2).to(work) * counts[:, None]).T @ wide
    mean += counts @ wide


def read(
    values: Sequence[Tensor],
    lengths: Sequence[int],
    name: str,
    work: torch.dtype = torch.float64,
    errors: Sequence[Tensor] = (),
) -> Moments:
    """The means over all tokens of a value in batches of texts of `lengths` tokens; no token rules, by the value or by
    the errors of what is made of it. Raises DataError for what is not finite."""
    weights, size = token_weights(values, lengths, errors), values[0].shape[-1]
    gram, mean = weights[0].new_zeros(size, size), weights[0].new_zeros(size)
    for value, weight in zip(values, weights, strict=True):
        add_products(gram, mean, value, value, weight, work)
    if not bool(torch.isfinite(gram).all()):
        raise DataError(f"the activations before {name} are not finite; check the weights and the calibration data")
    return Moments(tuple(values), weights, gram, mean, name, work)
