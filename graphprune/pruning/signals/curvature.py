"""Curvature at what linear calls read: how inputs vary together, and how the loss reacts to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphprune.analysis.linear_calls import LinearCall
from graphprune.errors import DataError
from graphprune.ir.graph import Graph
from graphprune.pruning.signals.token_weights import weighed_moment
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.loss import Loss, output_loss, predictions

_ROOM = 1 << 28  # bytes that all sums may take in float64; where they take more, they and their terms are float32

Readers = Mapping[str, Sequence[LinearCall]]  # calls that read one value, by a name for them together


@dataclass(frozen=True, eq=False)
class Curvature:
    """What calls read, x, and h, the gradient of the summed loss by x through these calls: means over tokens, [k, k].

    `inputs` is E[x xᵀ], over tokens of which none rules, `loss` is E[h hᵀ]; in float64 or, of many, in float32. A
    change d of x changes the mean loss of a token by about tr(loss E[d dᵀ]) / 2: of a linear call with the K-FAC factor
    G = E[g gᵀ] of its outputs (arXiv 1503.05671) `loss` is Wᵀ G W, and G, which is larger, is never made.
    """

    inputs: Tensor
    loss: Tensor


def measure_curvature(
    graph: Graph, readers: Readers, batches: Sequence[Batch], loss: Loss | None = None
) -> Mapping[str, Curvature]:
    """The curvature at what each of the readers read: one forward and backward of the data, no weight gradients.

    Memory is that of all matrices together. Raises DataError where the loss is not finite.
    """
    observed, position = expose(graph, readers)
    inputs: dict[str, Tensor] = {}
    losses: dict[str, Tensor] = {}
    tokens, kept = 0, torch.float64 if room_of(graph, readers) <= _ROOM else torch.float32
    source = {name: calls[0].x.name for name, calls in readers.items()}
    for batch in batches:
        values, gradients = differentiate(observed, position, len(graph.outputs), batch, loss)
        tokens += predictions(batch)
        for node, name in {node: name for name, node in source.items()}.items():
            add(inputs, node, weighed_moment(batch, values[name], kept))
        for name, gradient in gradients.items():
            rows = gradient.flatten(0, -2).to(kept)
            add(losses, name, rows.T @ rows)
    for total in (*inputs.values(), *losses.values()):
        total /= tokens
    return {name: Curvature(inputs[node], losses[name]) for name, node in source.items()}


def room_of(graph: Graph, readers: Readers) -> int:
    """The bytes of all matrices in float64."""
    tensors = graph.tensors()
    first = [calls[0] for calls in readers.values()]
    return 16 * sum(call.matrix(tensors[call.weight]).shape[1] ** 2 for call in first)


def add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Add to a sum in place, or begin one."""
    if name in sums:
        sums[name] += value
    else:
        sums[name] = value


def expose(graph: Graph, readers: Readers) -> tuple[Graph, Mapping[str, int]]:
    """The graph with what each of the readers read as a further output, and where each of them is.

    Readers get an alias of what they read, so that a gradient by it comes through them alone.
    """
    own = {name: torch.nn.Parameter(p.detach()) for name, p in graph.parameters().items()}
    fork = graph.with_tensors(own)
    nodes, added = {node.name: node for node in fork.nodes}, []
    for calls in readers.values():
        x = nodes[calls[0].x.name]
        with fork.module.graph.inserting_after(x):
            alias = fork.module.graph.call_function(torch.ops.aten.alias.default, (x,))
        alias.meta.update(x.meta)
        for call in calls:
            nodes[call.node.name].replace_input_with(x, alias)
        added.append(alias)
    fork.module.graph.output_node().args = ((*fork.results.values(), *added),)
    fork.module.recompile()
    start = len(graph.outputs)
    names = tuple(alias.name for alias in added)
    return replace(fork, outputs=(*graph.outputs, *names)), {name: start + i for i, name in enumerate(readers)}


def differentiate(
    observed: Graph, position: Mapping[str, int], own: int, batch: Batch, loss: Loss | None
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """What each of the readers read, and the gradient of the summed loss by it through them."""
    with torch.enable_grad():
        values = observed(*graph_inputs(observed, batch))
        value = output_loss(observed, values[:own], batch, loss) * predictions(batch)
        if not bool(torch.isfinite(value)):
            raise DataError(f"the loss on the calibration data is {value.item()}; check the weights and the data")
        read = {name: values[place] for name, place in position.items()}
        found = torch.autograd.grad(value, list(read.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(read.items(), found, strict=True)
    }
    return {name: x.detach() for name, x in read.items()}, gradients
