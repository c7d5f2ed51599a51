"""Ridge: the least-squares solver of a call's weight, damped towards the weight that it has."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from graphprune.pruning.activations.moments import Moments
from graphprune.pruning.reconstruct import Solution, Target
from graphprune.pruning.sparsity.support import solve_on_support

_SHARE, _LEAST = 8.0, 0.01  # of inputs over tokens, chosen on text that no table reports


@final
@dataclass(frozen=True)
class Ridge:
    """min E|W x - y|² + damping E|(W - W_old) x_i|² for each input x_i by itself; a free bias is solved with it.

    Weights that a pattern has at zero stay there. Without a number, damping is in proportion to what there is to learn,
    the inputs, over the tokens to learn it from: with few of them an undamped solution fits what is theirs alone.

    Batches are summed in `work`: float32 rounds at a millionth of an input's energy, far below the usual damping.
    """

    damping: float | None
    work: torch.dtype = torch.float64

    def __call__(self, seen: Moments, weight: Tensor, targets: Iterator[Target], centred: bool) -> Solution:
        damping = self.damping_of(seen)
        new, offset = torch.empty_like(weight), list[Tensor]()
        for target in targets:
            old = weight[target.rows].double()
            rest, shift = target.moment - seen.gram @ old.T, target.mean - old @ seen.mean
            rest = rest - torch.outer(seen.mean, shift) if centred else rest
            kept = target.kept
            change = (
                seen.solve(rest, damping, centred).T if kept is None else on_pattern(seen, rest, damping, centred, kept)
            )
            new[target.rows] = (old + change).to(new.dtype)
            offset.append(shift - change @ seen.mean)
        return Solution(new, torch.cat(offset) if centred else None)

    def damping_of(self, seen: Moments) -> float:
        if self.damping is not None:
            return self.damping
        tokens = sum(len(weight) for weight in seen.weights)
        return max(_LEAST, _SHARE * len(seen.mean) / tokens)


def on_pattern(seen: Moments, rest: Tensor, damping: float, centred: bool, kept: Tensor) -> Tensor:
    """The change [outputs, inputs] of least squares, where a pattern lets anything change."""
    gram = seen.gram - torch.outer(seen.mean, seen.mean) if centred else seen.gram
    damped = gram + torch.diag(damping * gram.diagonal())
    return solve_on_support(damped, rest.T, kept, torch.zeros_like(rest.T))
