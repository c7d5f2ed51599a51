"""Curvature at what linear calls read: how inputs vary together, and how the loss reacts to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from graphprune.analysis.linear_calls import LinearCall
from graphprune.errors import DataError
from graphprune.ir.graph import Graph
from graphprune.pruning.signals.segments import Listener, Segmented
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
    sums = Sums(graph, readers, batches)
    for place, batch in enumerate(batches):
        values, gradients = differentiate(observed, position, len(graph.outputs), batch, loss)
        for name, gradient in gradients.items():
            sums.see(place, name, values[name], gradient)
    return sums.take(tuple(readers))


def measure_by_segments(
    graph: Graph,
    readers: Readers,
    batches: Sequence[Batch],
    ends: Sequence[str],
    found: Callable[[Mapping[str, Curvature]], None],
    loss: Loss | None = None,
    shelf: Path | None = None,
) -> None:
    """The same, all batches through one segment of the graph after the other, each up to one of the nodes `ends`.

    `found` is given the readers of a segment when it is done, of the last one first; memory is that of their matrices,
    and of what segments hand over, which may wait in a folder, `shelf`.
    """
    observed, position = expose(graph, readers)
    named = {observed.outputs[place]: name for name, place in position.items()}
    observed.module.graph.output_node().args = (observed.returned[: len(graph.outputs)],)
    sums = Sums(graph, readers, batches)

    def see(place: int, node: str, value: Tensor, gradient: Tensor) -> None:
        sums.see(place, named[node], value, gradient * predictions(batches[place]))

    def settle(nodes: Sequence[str]) -> None:
        found(sums.take([named[node] for node in nodes]))

    split = Segmented(replace(observed, outputs=graph.outputs), {}, ends, loss, frozenset(named), shelf)
    split.backward(batches, Listener(node=see, settled=settle))


@final
class Sums:
    """The matrices of readers as they grow, batch by batch; that of a value which several read is one."""

    def __init__(self, graph: Graph, readers: Readers, batches: Sequence[Batch]) -> None:
        self.batches, self.tokens = batches, sum(map(predictions, batches))
        self.kept = kept_type(graph, readers)
        self.source = {name: calls[0].x.name for name, calls in readers.items()}
        self.inputs: dict[str, Tensor] = {}
        self.losses: dict[str, Tensor] = {}
        self.seen: set[tuple[int, str]] = set()

    def see(self, place: int, name: str, value: Tensor, gradient: Tensor) -> None:
        """Add what a reader reads of a batch, and the gradient of the summed loss by it."""
        node = self.source[name]
        if (place, node) not in self.seen:
            self.seen.add((place, node))
            add(self.inputs, node, weighed_moment(self.batches[place], value, self.kept))
        rows = gradient.flatten(0, -2).to(self.kept)
        add(self.losses, name, rows.T @ rows)

    def take(self, names: Sequence[str]) -> Mapping[str, Curvature]:
        """The curvature of these readers, which are all those of what they read; their sums are given up."""
        inputs = {node: self.inputs.pop(node) for node in dict.fromkeys(self.source[name] for name in names)}
        losses = {name: self.losses.pop(name) for name in names}
        for total in (*inputs.values(), *losses.values()):
            total /= self.tokens
        return {name: Curvature(inputs[self.source[name]], losses[name]) for name in names}


def kept_bytes(graph: Graph, readers: Readers) -> int:
    """The bytes of all matrices."""
    return 2 * kept_type(graph, readers).itemsize * entries(graph, readers)


def kept_type(graph: Graph, readers: Readers) -> torch.dtype:
    """The type that all matrices are kept in."""
    return torch.float64 if 16 * entries(graph, readers) <= _ROOM else torch.float32


def entries(graph: Graph, readers: Readers) -> int:
    """The entries of one matrix of each of the readers."""
    tensors = graph.tensors()
    first = [calls[0] for calls in readers.values()]
    return sum(call.matrix(tensors[call.weight]).shape[1] ** 2 for call in first)


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
