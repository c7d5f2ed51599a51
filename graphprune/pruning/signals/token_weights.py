"""Token weights: what each token counts in a mean of products, so that a few of huge activations do not rule it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphprune.running.inputs import Batch
from graphprune.running.loss import predictions

_MOST = 8.0  # times the usual energy
_ROUNDS = 10  # a token that counts less lowers what is usual, and with it what others may have


def token_weights(
    values: Sequence[Tensor], lengths: Sequence[int], errors: Sequence[Tensor] = ()
) -> tuple[Tensor, ...]:
    """A weight for each token of every batch [.., inputs]: float64 [tokens], in all 1; see `token_counts`.

    Where `errors` [.., outputs] are to be mended, no token rules by these either.
    """
    counts = token_counts(values, lengths)
    if errors:
        pairs = zip(counts, token_counts(errors, lengths), strict=True)
        counts = tuple(torch.minimum(one, other) for one, other in pairs)
    total = sum(float(count.double().sum()) for count in counts)
    return tuple(count.double() / total for count in counts)


def token_counts(values: Sequence[Tensor], lengths: Sequence[int]) -> tuple[Tensor, ...]:
    """What each token of every batch [.., inputs] counts, 1 at most: float32 [tokens].

    Language models have tokens, the first of a text above all, whose activations are a thousand times as large as
    others in a few places (arXiv 2402.17762). Each counts as if it had `_MOST` times the usual energy, not more. Energy
    is the mean over inputs of x² / E[x²], so that rescaled inputs change nothing; E is over tokens behind the first,
    where texts of `lengths` tokens are known.
    """
    usual = [behind_first(value[..., 0].numel(), length) for value, length in zip(values, lengths, strict=True)]
    weights = [value.new_ones(len(mask), dtype=torch.float32) for value, mask in zip(values, usual, strict=True)]
    share: Tensor | None = None
    for _ in range(_ROUNDS + 1):
        energy, whole, before = values[0].new_zeros(values[0].shape[-1], dtype=torch.float32), 0.0, weights
        weights = []
        # A batch at a time: squares of all of them would take as much memory as the values themselves.
        for value, mask, old in zip(values, usual, before, strict=True):
            square = value.flatten(0, -2).float().square()
            weight = old if share is None else _MOST / (square @ share).clamp(min=_MOST)
            count = weight * mask.to(weight)
            energy, whole = energy + count @ square, whole + float(count.sum())
            weights.append(weight)
        first, share = share is None, torch.where(energy > 0, whole / energy / len(energy), 0.0)
        near = (torch.allclose(old, new, rtol=0.01, atol=0.0) for old, new in zip(before, weights, strict=True))
        if not first and all(near):
            break
    return tuple(weights)


def behind_first(tokens: int, length: int) -> Tensor:
    """Which of so many tokens are not the first of a text of `length`: all, where they are no whole texts."""
    places = torch.arange(tokens)
    return places % length > 0 if length > 1 and tokens % length == 0 else places >= 0


def text_length(batch: Batch) -> int:
    """The tokens of a row of a batch; 0 where it holds no token ids."""
    ids = batch if isinstance(batch, Tensor) else batch.get("input_ids")
    return int(ids.shape[1]) if ids is not None and ids.ndim == 2 else 0


def weighed_moment(batch: Batch, value: Tensor, work: torch.dtype = torch.float64) -> Tensor:
    """X xᵀ of one batch, a mean over tokens of which none rules, times its predictions: [k, k], computed in `work`."""
    (weight,), rows = token_weights([value], [text_length(batch)]), value.flatten(0, -2).to(work)
    return (rows * weight.to(work)[:, None]).T @ rows * predictions(batch)
