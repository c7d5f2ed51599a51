"""Stream change: how much each block, or each residual branch, changes the stream that it adds to."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from graphprune.analysis.groups import Branch, Group, Groups
from graphprune.analysis.layers import find_layers
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.pruning.activations.observe import Reading, observe
from graphprune.running.inputs import Batch

UNMEASURED = "where the stream is zero, or no number, it has no direction: such tokens count as not turned"


def branch_influence(graph: Graph, groups: Groups, batches: Sequence[Batch]) -> dict[str, float]:
    """For each branch one minus the mean cosine between the stream before and after it (ShortGPT, arXiv 2403.03853).

    0 means that dropping the branch leaves the direction of every token's state as it was.
    """
    found = branch_turns(graph, groups.branches, batches)
    return {id: mean_of(turns) for id, turns in found.items()}


def branch_turns(graph: Graph, branches: Sequence[Branch], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """How far each branch by itself turns the stream: `sum_measured` by its id."""

    def turn(_: Batch, skip: Tensor, term: Tensor) -> Tensor:
        return sum_measured(1 - cosine(skip, skip + term))

    found = observe(graph, {b.id: Reading((b.skip, b.branch), turn) for b in branches}, batches)
    return {b.id: found.get(b.id, torch.zeros(3, dtype=torch.float64)) for b in branches}


def layer_turns(graph: Graph, layers: Sequence[Sequence[Branch]], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """How far each layer turns the stream: `sum_measured` by the id of its first branch."""

    def turn(_: Batch, before: Tensor, after: Tensor) -> Tensor:
        return sum_measured(1 - cosine(before, after))

    return observe(graph, {part[0].id: Reading((part[0].skip, part[-1].add), turn) for part in layers}, batches)


def cosine(before: Tensor, after: Tensor) -> Tensor:
    """The cosine of two states of every token, in float64: exactly 1 where they are equal, NaN where one is zero."""
    left, right = before.double(), after.double()
    lengths = left.norm(dim=-1) * right.norm(dim=-1)
    found = ((left * right).sum(-1) / lengths).clamp(-1, 1)
    return torch.where((left == right).all(-1), 1.0, found)


def sum_measured(values: Tensor) -> Tensor:
    """The sum of a number for each token, how many tokens there are, and how many have none: [3], which adds up."""
    known = values.isfinite()
    return torch.stack([values.where(known, 0.0).sum(), torch.ones_like(values).sum(), (~known).sum().to(values)])


def sum_and_count(values: Tensor) -> Tensor:
    """The sum of a number for each token, and how many there are: [2], which adds up over batches."""
    wide = values.double()
    return torch.stack([wide.sum(), torch.full_like(wide.sum(), wide.numel())])


def mean_of(found: Tensor) -> float:
    return float(found[0] / found[1].clamp(min=1))


def block_influence(
    graph: Graph,
    groups: Groups,
    candidates: Sequence[Group],
    batches: Sequence[Batch],
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Tensor]:
    """The influence of each candidate that is a branch, or of the layer that it is tied to: [1] each.

    Raises UsageError without text.
    """
    if not batches:
        raise UsageError("residual branches and layers are measured on text; give --data")
    chosen, ties = {c.id for c in candidates if c.tie is None}, {c.tie for c in candidates}
    found = branch_turns(graph, [branch for branch in groups.branches if branch.id in chosen], batches)
    found |= layer_turns(graph, [layer for layer in find_layers(groups) if layer[0].id in ties], batches)
    if any(turns[2] > 0 for turns in found.values()):
        note(UNMEASURED)
    return {c.id: torch.tensor([mean_of(found[c.tie or c.id])]) for c in candidates}


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
