"""Curvature at linear calls: how their inputs vary together, and how the loss reacts to their outputs."""

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

_WIDEST = 2048  # of more outputs than this only the diagonal is kept
_ROOM = 1 << 28  # bytes that all sums may take in float64; where they take more, they and their terms are float32


@dataclass(frozen=True, eq=False)
class Curvature:
    """The K-FAC factors of one linear call (arXiv 1503.05671), means over tokens, in float64 or, of many, in float32.

    `inputs` is E[x xᵀ], [k, k], over tokens of which none rules. `outputs` is E[g gᵀ], [o, o], with g the gradient of
    the summed loss by the call's output, or its diagonal [o] where there are many outputs. A change D of the weight
    changes the mean loss of a token by about tr(outputs D inputs Dᵀ) / 2.
    """

    inputs: Tensor
    outputs: Tensor

    def pull_back(self, weight: Tensor) -> Tensor:
        """Wᵀ outputs W: the curvature of the loss in the inputs' coordinates, [k, k]."""
        wide = weight.double()
        outputs = self.outputs.double()
        scaled = outputs[:, None] * wide if outputs.ndim == 1 else outputs @ wide
        return wide.T @ scaled


def measure_curvature(
    graph: Graph, calls: Sequence[LinearCall], batches: Sequence[Batch], loss: Loss | None = None
) -> Mapping[str, Curvature]:
    """The curvature at each call, by the name of its node: one forward and backward of the data, no weight gradients.

    Memory is that of all matrices together. Raises DataError where the loss is not finite.
    """
    observed, position = expose(graph, calls)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    tokens, kept = 0, torch.float64 if room_of(graph, calls) <= _ROOM else torch.float32
    for batch in batches:
        values, gradients = differentiate(observed, position, len(graph.outputs), calls, batch, loss)
        tokens += predictions(batch)
        for node in {call.x.name for call in calls}:
            add(inputs, node, weighed_moment(batch, values[position[node]].detach(), kept))
        for call, gradient in zip(calls, gradients, strict=True):
            g = gradient.flatten(0, -2).to(kept)
            add(outputs, call.node.name, g.square().sum(0) if g.shape[1] > _WIDEST else g.T @ g)
    for total in (*inputs.values(), *outputs.values()):
        total /= tokens
    return {c.node.name: Curvature(inputs[c.x.name], outputs[c.node.name]) for c in calls}


def room_of(graph: Graph, calls: Sequence[LinearCall]) -> int:
    """The bytes of all matrices in float64."""
    tensors = graph.tensors()
    sides = {call.x.name: call.matrix(tensors[call.weight]).shape[1] for call in calls}
    made = [call.matrix(tensors[call.weight]).shape[0] for call in calls]
    return 8 * sum(size * size for size in (*sides.values(), *(o for o in made if o <= _WIDEST)))


def add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Add to a sum in place, or begin one."""
    if name in sums:
        sums[name] += value
    else:
        sums[name] = value


def expose(graph: Graph, calls: Sequence[LinearCall]) -> tuple[Graph, Mapping[str, int]]:
    """The graph with the calls' inputs and outputs as further outputs, and where each of them is."""
    own = {name: torch.nn.Parameter(p.detach()) for name, p in graph.parameters().items()}
    fork = graph.with_tensors(own)
    names = dict.fromkeys(name for call in calls for name in (call.x.name, call.node.name))
    nodes = {node.name: node for node in fork.nodes}
    fork.module.graph.output_node().args = ((*fork.results.values(), *(nodes[name] for name in names)),)
    fork.module.recompile()
    start = len(graph.outputs)
    return replace(fork, outputs=(*graph.outputs, *names)), {name: start + i for i, name in enumerate(names)}


def differentiate(
    observed: Graph,
    position: Mapping[str, int],
    own: int,
    calls: Sequence[LinearCall],
    batch: Batch,
    loss: Loss | None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """All outputs of the observed graph, and the gradient of the summed loss by each call's output."""
    with torch.enable_grad():
        values = observed(*graph_inputs(observed, batch))
        value = output_loss(observed, values[:own], batch, loss) * predictions(batch)
        if not bool(torch.isfinite(value)):
            raise DataError(f"the loss on the calibration data is {value.item()}; check the weights and the data")
        made = [values[position[call.node.name]] for call in calls]
        found = torch.autograd.grad(value, made, allow_unused=True)
    return values, tuple(torch.zeros_like(m) if g is None else g for m, g in zip(made, found, strict=True))
