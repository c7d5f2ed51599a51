"""Token weights: what each token counts in a mean of products, so that a few of huge activations do not rule it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphprune.running.inputs import Batch
from graphprune.running.loss import predictions

_MOST = 8.0  # times the usual energy
_ROUNDS = 10  # a token that counts less lowers what is usual, and with it what others may have


def token_weights(values: Sequence[Tensor], lengths: Sequence[int]) -> tuple[Tensor, ...]:
    """A weight for each token of every batch [.., inputs]: float64 [tokens], in all 1.

    Language models have tokens, the first of a text above all, whose activations are a thousand times as large as
    others in a few places (arXiv 2402.17762). Each counts as if it had `_MOST` times the usual energy, not more. Energy
    is the mean over inputs of x² / E[x²], so that rescaled inputs change nothing; E is over tokens behind the first,
    where texts of `lengths` tokens are known.
    """
    squares = [value.flatten(0, -2).float().square() for value in values]
    usual = [behind_first(len(square), length).to(square) for square, length in zip(squares, lengths, strict=True)]
    weights = [square.new_ones(len(square)) for square in squares]
    for _ in range(_ROUNDS):
        counts = [weight * mask for weight, mask in zip(weights, usual, strict=True)]
        energy = torch.stack([count @ square for count, square in zip(counts, squares, strict=True)]).sum(0)
        whole = torch.stack([count.sum() for count in counts]).sum()
        share = torch.where(energy > 0, whole / energy / len(energy), 0.0)
        before, weights = weights, [_MOST / (square @ share).clamp(min=_MOST) for square in squares]
        if all(torch.allclose(old, new, rtol=0.01, atol=0.0) for old, new in zip(before, weights, strict=True)):
            break
    total = sum(float(weight.double().sum()) for weight in weights)
    return tuple(weight.double() / total for weight in weights)


def behind_first(tokens: int, length: int) -> Tensor:
    """Which of so many tokens are not the first of a text of `length`: all, where they are no whole texts."""
    places = torch.arange(tokens)
    return places % length > 0 if length > 1 and tokens % length == 0 else places >= 0


def text_length(batch: Batch) -> int:
    """The tokens of a row of a batch; 0 where it holds no token ids."""
    ids = batch if isinstance(batch, Tensor) else batch.get("input_ids")
    return int(ids.shape[1]) if ids is not None and ids.ndim == 2 else 0


def flat(value: Tensor) -> Tensor:
    """Rows of the last dimension, in float64."""
    return value.flatten(0, -2).double()


def weighed_moment(batch: Batch, value: Tensor) -> Tensor:
    """X xᵀ of one batch, a mean over tokens of which none rules, times its predictions: float64 [k, k]."""
    (weight,), rows = token_weights([value], [text_length(batch)]), flat(value)
    return (rows * weight[:, None]).T @ rows * predictions(batch)
