"""Stream change: how much each block, or each residual branch, changes the stream that it adds to."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, fx

from graphprune.analysis.groups import Branch, Group, Groups
from graphprune.analysis.layers import find_layers
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.running.inputs import Batch, run_batch


def branch_influence(graph: Graph, groups: Groups, batches: Sequence[Batch]) -> dict[str, float]:
    """For each branch one minus the mean cosine between the stream before and after it (ShortGPT, arXiv 2403.03853).

    0 means that dropping the branch leaves the direction of every token's state as it was.
    """
    observed = observing(graph, groups.branches)
    totals = dict.fromkeys((b.id for b in groups.branches), 0.0)
    with torch.no_grad():
        for batch in batches:
            outputs = run_batch(observed, batch)[len(graph.outputs) :]
            for branch, skip, term in zip(groups.branches, outputs[::2], outputs[1::2], strict=True):
                totals[branch.id] += 1.0 - mean_cosine(skip, skip + term)
    return {id: total / max(1, len(batches)) for id, total in totals.items()}


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


def mean_cosine(left: Tensor, right: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(left.float(), right.float(), dim=-1).mean())


def observing(graph: Graph, branches: Sequence[Branch]) -> Graph:
    """The graph with the skip operand and the term of every branch as further outputs."""
    fork = graph.fork()
    nodes = {node.name: node for node in fork.nodes}
    extra: list[fx.Node] = [nodes[name] for branch in branches for name in (branch.skip, branch.branch)]
    output = fork.module.graph.output_node()
    output.args = ((*fork.results.values(), *extra),)
    fork.module.recompile()
    names = (f"{part}.{branch.id}" for branch in branches for part in ("skip", "term"))
    return replace(fork, outputs=(*graph.outputs, *names))


Distance = Literal["cosine", "euclidean", "manhattan"]


def measure_change(
    graph: Graph, layers: Sequence[Sequence[Branch]], batches: Sequence[Batch], distance: Distance, skip: int = 1
) -> tuple[float, ...]:
    """How far each layer takes the stream, a mean over tokens: minus the cosine of input and output, or their distance.

    The first `skip` tokens of each row are left out, since their states are large and say little about the others
    (attention sinks). A larger number is a larger change for every distance.
    """
    observed = watch(graph, [(layer[0].skip, layer[-1].add) for layer in layers])
    totals, tokens = torch.zeros(len(layers), dtype=torch.float64), 0
    with torch.no_grad():
        for batch in batches:
            values = run_batch(observed, batch)[len(graph.outputs) :]
            pairs = [
                (a[:, skip:], b[:, skip:]) if a.ndim > 2 else (a, b) for a, b in zip(*[iter(values)] * 2, strict=True)
            ]
            totals += torch.tensor([float(change(a, b, distance).double().sum()) for a, b in pairs])
            tokens += pairs[0][0].shape[:-1].numel() if pairs else 0
    return tuple((totals / max(1, tokens)).tolist())


def change(before: Tensor, after: Tensor, distance: Distance) -> Tensor:
    """The change of every token's state, in float32."""
    left, right = before.float(), after.float()
    if distance == "cosine":
        return -torch.nn.functional.cosine_similarity(left, right, dim=-1)
    order = 2 if distance == "euclidean" else 1
    return torch.as_tensor(torch.linalg.vector_norm(right - left, ord=order, dim=-1))


def watch(graph: Graph, pairs: Sequence[tuple[str, str]]) -> Graph:
    """The graph with pairs of nodes as further outputs."""
    fork = graph.fork()
    nodes = {node.name: node for node in fork.nodes}
    extra = [nodes[name] for pair in pairs for name in pair]
    fork.module.graph.output_node().args = ((*fork.results.values(), *extra),)
    fork.module.recompile()
    return replace(fork, outputs=(*graph.outputs, *(f"{i}.{side}" for i in range(len(pairs)) for side in "ab")))


def normalise(changes: Sequence[float]) -> tuple[float, ...]:
    """Changes around their mean, divided by the largest deviation: in [-1, 1], mean 0; all 0 where they are equal."""
    mean = sum(changes) / max(1, len(changes))
    around = [value - mean for value in changes]
    largest = max(map(abs, around), default=0.0)
    return tuple(value / largest if largest > 0 else 0.0 for value in around)
