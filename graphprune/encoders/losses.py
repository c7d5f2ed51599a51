"""Losses of embeddings: how far they are from what the source makes of the same, and how well pairs find each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional

from graphprune.encoders.embeddings import Embedding, Named, embed
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.running.inputs import Batch
from graphprune.running.loss import Comparing, Loss, RowMean

Kind = Literal["auto", "similarity", "contrastive"]
_LOGITS = "logits_per_image"
_AIM, _DRAW = "aim.", "draw."  # what goes along with a batch: the source's embeddings, and random directions


@final
@dataclass(frozen=True)
class Similarity:
    """One minus the cosine between an embedding and the source's own, a mean over rows and over embeddings.

    The source itself has no gradient by it: it is at the least. So the gradient is that of a random draw: the log
    likelihood of a normal distribution around the source's embedding e, at a point drawn from it, whose gradient has
    the second moment J^T J, J being the derivative of e. It is the Fisher matrix, and the Hessian of the loss at the
    source; the first order |w g| is in the mean over draws in proportion to how far a weight moves the embedding. So
    scores of either order rank by this loss, whose value is exact.
    """

    embeddings: tuple[Embedding, ...]

    def __call__(self, values: tuple[Tensor, ...], batch: Batch) -> Tensor:
        assert not isinstance(batch, Tensor), "embeddings are of named tensors"
        found = [(each.name, each.read(values, batch)) for each in self.embeddings]
        exact = torch.stack([1 - (e * batch[_AIM + n].to(e)).sum(-1).mean() for n, e in found]).mean()
        if not exact.requires_grad:
            return exact
        drawn = torch.stack([(e * batch[_DRAW + n].to(e)).sum(-1).mean() for n, e in found]).mean()
        return exact.detach() + drawn - drawn.detach()


@final
@dataclass(frozen=True)
class Contrastive:
    """The cross entropy of finding the own text of each image, and the own image of each text: their mean (CLIP).

    `logits` is the place of `logits_per_image` [images, texts] among the outputs. Source: Radford et al., arXiv
    2103.00020, figure 3.
    """

    logits: int

    def __call__(self, values: tuple[Tensor, ...], batch: Batch) -> Tensor:
        logits = values[self.logits]
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        own = torch.arange(len(wide), device=wide.device)
        return (functional.cross_entropy(wide, own) + functional.cross_entropy(wide.T, own)) / 2


def make_loss(graph: Graph, embeddings: tuple[Embedding, ...], kind: Kind) -> Loss:
    """The loss of this kind; auto is similarity to what the source embeds, also where images and texts are compared.

    What a trained model finds is found without any one part of it, so that a contrastive loss hardly tells parts apart:
    on a small CLIP it chose worse channels than magnitude, similarity better ones (docs/methods/mope-clip.md). Raises
    UsageError for a contrastive loss of a model that compares nothing.
    """
    if kind != "contrastive":
        return RowMean(Similarity(embeddings))
    found = pair_loss(graph, embeddings)
    if found is None:
        raise UsageError("calibration.loss=contrastive is of a model that compares images and texts; leave it out")
    return found


def pair_loss(graph: Graph, embeddings: tuple[Embedding, ...]) -> Comparing | None:
    """The contrastive loss of a model that compares images and texts; None for others."""
    compares = len(embeddings) == 2 and _LOGITS in graph.outputs
    return Comparing(Contrastive(graph.outputs.index(_LOGITS))) if compares else None


def with_aims(graph: Graph, embeddings: Sequence[Embedding], batches: Sequence[Named], seed: int) -> Iterator[Named]:
    """The batches, each with what the graph makes of it and with directions drawn from N(0, 1/n) for each row."""
    generator = torch.Generator().manual_seed(seed)
    for batch, found in zip(batches, embed(graph, embeddings, batches), strict=True):
        extra: dict[str, Tensor] = {}
        for name, value in found.items():
            drawn = torch.randn(value.shape, generator=generator, dtype=torch.float32)
            extra |= {_AIM + name: value.cpu(), _DRAW + name: drawn / value.shape[-1] ** 0.5}
        yield {**batch, **extra}
