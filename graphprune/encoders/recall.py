"""Recall: of how many images the own text is among the nearest, and of how many texts the own image."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from graphprune.encoders.embeddings import Embedding
from graphprune.errors import UsageError
from graphprune.running.inputs import Batch


def recall_at(k: int, similarities: Tensor) -> float:
    """The share of rows and of columns [n, n] whose own entry, on the diagonal, is among their k largest: their mean.

    Of equal ones the own is the last, so a model to which all is alike finds nothing.
    """
    own = similarities.diagonal()
    found = [((similarities >= own.unsqueeze(1 - dim)).sum(1 - dim) <= k).double().mean() for dim in (0, 1)]
    return float(sum(found) / 2)


@final
@dataclass(frozen=True)
class Recall:
    """Minus recall@k of a batch: a metric that has no gradient, in the form of a loss, so that less is better."""

    embeddings: tuple[Embedding, ...]
    k: int = 1

    def __post_init__(self) -> None:
        if len(self.embeddings) != 2:
            raise UsageError("recall is of images and texts, which this model does not compare; take metric=loss")

    def __call__(self, values: tuple[Tensor, ...], batch: Batch) -> Tensor:
        assert not isinstance(batch, Tensor), "pairs are named tensors"
        images, texts = (each.read(values, batch).double() for each in self.embeddings)
        return torch.tensor(-recall_at(self.k, images @ texts.T))
