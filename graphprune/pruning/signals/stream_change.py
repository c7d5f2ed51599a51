"""Stream change: how much each block, or each residual branch, changes the stream that it adds to."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from graphprune.analysis.groups import Branch, Group, Groups
from graphprune.analysis.layers import find_layers
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.pruning.activations.observe import Reading, observe
from graphprune.running.inputs import Batch


def branch_influence(graph: Graph, groups: Groups, batches: Sequence[Batch]) -> dict[str, float]:
    """For each branch one minus the mean cosine between the stream before and after it (ShortGPT, arXiv 2403.03853).

    0 means that dropping the branch leaves the direction of every token's state as it was.
    """

    def turn(_: Batch, skip: Tensor, term: Tensor) -> Tensor:
        return sum_and_count(1 + change(skip, skip + term, "cosine"))

    found = observe(graph, {b.id: Reading((b.skip, b.branch), turn) for b in groups.branches}, batches)
    return {b.id: mean_of(found[b.id]) if b.id in found else 0.0 for b in groups.branches}


def sum_and_count(values: Tensor) -> Tensor:
    """The sum of a number for each token, and how many there are: [2], which adds up over batches."""
    wide = values.double()
    return torch.stack([wide.sum(), torch.full_like(wide.sum(), wide.numel())])


def mean_of(found: Tensor) -> float:
    return float(found[0] / found[1].clamp(min=1))


def block_influence(
    graph: Graph, groups: Groups, candidates: Sequence[Group], batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """The influence of each candidate that is a branch, or of the layer that it is tied to: [1] each.

    Raises UsageError without text.
    """
    if not batches:
        raise UsageError("residual branches and layers are measured on text; give --data")
    single = branch_influence(graph, groups, batches) if any(c.tie is None for c in candidates) else {}
    layers = tuple(layer for layer in find_layers(groups) if any(c.tie == layer[0].id for c in candidates))
    whole = measure_change(graph, layers, batches, "cosine", skip=0) if layers else ()
    tied = {layer[0].id: 1.0 + change for layer, change in zip(layers, whole, strict=True)}
    return {c.id: torch.tensor([single[c.id] if c.tie is None else tied[c.tie]]) for c in candidates}


Distance = Literal["cosine", "euclidean", "manhattan"]


def measure_change(
    graph: Graph, layers: Sequence[Sequence[Branch]], batches: Sequence[Batch], distance: Distance, skip: int = 1
) -> tuple[float, ...]:
    """How far each layer takes the stream, a mean over tokens: minus the cosine of input and output, or their distance.

    The first `skip` tokens of each row are left out, since their states are large and say little about the others
    (attention sinks). A larger number is a larger change for every distance.
    """

    def turn(_: Batch, before: Tensor, after: Tensor) -> Tensor:
        behind = slice(skip if before.ndim > 2 else 0, None)
        return sum_and_count(change(before[:, behind], after[:, behind], distance))

    pairs = {place: Reading((layer[0].skip, layer[-1].add), turn) for place, layer in enumerate(layers)}
    found = observe(graph, pairs, batches)
    return tuple(mean_of(found[place]) if place in found else 0.0 for place in pairs)


def change(before: Tensor, after: Tensor, distance: Distance) -> Tensor:
    """The change of every token's state, in float32."""
    left, right = before.float(), after.float()
    if distance == "cosine":
        return -torch.nn.functional.cosine_similarity(left, right, dim=-1)
    order = 2 if distance == "euclidean" else 1
    return torch.as_tensor(torch.linalg.vector_norm(right - left, ord=order, dim=-1))


def normalise(changes: Sequence[float]) -> tuple[float, ...]:
    """Changes around their mean, divided by the largest deviation: in [-1, 1], mean 0; all 0 where they are equal."""
    mean = sum(changes) / max(1, len(changes))
    around = [value - mean for value in changes]
    largest = max(map(abs, around), default=0.0)
    return tuple(value / largest if largest > 0 else 0.0 for value in around)
