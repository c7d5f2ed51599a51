"""Agreement: how much of a source's embeddings is left, by their directions and by which are near to each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.encoders.embeddings import Embedding, Named, embed
from graphprune.encoders.passages import PLACE
from graphprune.ir.graph import Graph

_COMPARED = 2000  # embeddings, of which all pairs are ranked


@dataclass(frozen=True)
class Agreement:
    """The mean cosine of embeddings with others of the same, and of the ranks of all similarities (Spearman)."""

    cosine: float
    ranks: float
    count: int


def agreement(before: Tensor, after: Tensor) -> Agreement:
    """Of embeddings [count, n], of length 1 and in the same order; the numbers of entries may differ.

    The cosine is NaN where they do: then only distances compare.
    """
    same = before.shape == after.shape
    cosine = float((before.double() * after.double()).sum(-1).mean()) if same else float("nan")
    return Agreement(cosine, spearman(similarities(before), similarities(after)), len(before))


def similarities(embeddings: Tensor) -> Tensor:
    """The cosines of all pairs of the first embeddings: [count (count - 1) / 2]."""
    wide = embeddings[:_COMPARED].double()
    rows, columns = torch.triu_indices(len(wide), len(wide), 1)
    return (wide @ wide.T)[rows, columns]


def spearman(one: Tensor, other: Tensor) -> float:
    """The correlation of the ranks of two lists of numbers; values that are equal share the mean of their ranks."""
    if len(one) < 2:
        return float("nan")
    return float(torch.corrcoef(torch.stack([ranks(one), ranks(other)]))[0, 1])


def ranks(values: Tensor) -> Tensor:
    """The rank of each value, from 0; of equal ones their mean: float64."""
    _, place, count = torch.unique(values, return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    mean: Tensor = last - (count.double() + 1) / 2
    return mean[place]


def embed_in_order(graph: Graph, embeddings: Sequence[Embedding], batches: Sequence[Named]) -> Mapping[str, Tensor]:
    """The embeddings of all batches by output, in the order of their places: [count, n] each."""
    found = list(embed(graph, embeddings, batches))
    order = torch.cat([batch[PLACE] for batch in batches]).argsort()
    return {each.name: torch.cat([values[each.name].cpu() for values in found])[order] for each in embeddings}
