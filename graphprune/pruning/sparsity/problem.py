"""A problem: the weight of one linear call is to have a pattern and still give what it should, on the text."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

_EXACT = 1e-6  # of an input's energy: damping of the weights that errors are measured from


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """min over W* with a pattern of E|W* x - y|², of a call that reads x and should give y.

    `weight` [outputs, inputs] is the one that it has, `gram` is E[x xᵀ], `cross` is E[y xᵀ] [outputs, inputs]: all in
    one type and on one device. `best` are the weights, without a pattern, that give y best, and `lacking` is what their
    descent leaves, next to nothing.
    """

    weight: Tensor
    gram: Tensor
    cross: Tensor
    best: Tensor
    lacking: Tensor

    @classmethod
    def of(cls, weight: Tensor, gram: Tensor, cross: Tensor, damping: float = 0.0) -> "Problem":
        """The problem, with `damping` E|(W* - W) x_i|² for each input x_i by itself added to what is minimised."""
        energy = gram.diagonal()
        if damping:
            cross = cross + damping * energy * weight
            gram = gram + torch.diag(damping * energy)
        best = free_solution(weight, gram, cross)
        return cls(weight, gram, cross, best, cross - best @ gram)

    @property
    def live(self) -> Tensor:
        """Which inputs are not always zero; what reads the others may have any weight, and has none."""
        return self.gram.diagonal() > 0

    def error(self, weight: Tensor) -> float:
        """How much worse a weight is than the best without a pattern: E|W* x - y|² without what no weight mends."""
        away = weight - self.best
        return max(0.0, float((away * (away @ self.gram - 2 * self.lacking)).sum(dtype=torch.float64)))

    def scaled(self) -> tuple["Problem", Tensor]:
        """The same problem with inputs of energy 1, whose weights are those of this one times the scale [inputs]."""
        scale = self.gram.diagonal().clamp(min=0).sqrt()
        inverse = torch.where(scale > 0, 1 / scale.clamp(min=1e-30), 0.0)
        gram = self.gram * inverse[:, None] * inverse
        lacking = self.lacking * inverse
        return Problem(self.weight * scale, gram, self.cross * inverse, self.best * scale, lacking), scale


def free_solution(weight: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    """The weights that give y best where none has to be zero: the ones there are, where these do."""
    rest = cross - weight @ gram
    if not bool((rest.abs() > _EXACT * cross.abs().max()).any()):
        return weight
    return weight + solve(gram, rest.T, _EXACT).T.to(weight)


def solve(gram: Tensor, right: Tensor, damping: float) -> Tensor:
    """X of (gram + damping of each input's energy) X = right, in float64; 0 for inputs without energy."""
    wide, energy = gram.double(), gram.diagonal().double()
    scale = torch.where(energy > 0, energy.clamp(min=1e-300).rsqrt(), 0.0)
    even = wide * scale[:, None] * scale
    for ridge in (damping, damping + 1e-5, damping + 1e-3, damping + 1e-1):
        even.diagonal().fill_(1.0 + ridge)
        factor, failed = torch.linalg.cholesky_ex(even)
        if not bool(failed):
            break
    return scale[:, None] * torch.cholesky_solve(scale[:, None] * right.double(), torch.as_tensor(factor))
