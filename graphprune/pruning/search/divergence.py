"""Divergence: how far a model's predictions are from those of another, over the tokens that the other finds likely."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from graphprune.ir.graph import Graph
from graphprune.running.inputs import Batch, run_batch
from graphprune.running.loss import Loss, output_loss, predictions

_TOP = 1024  # logits of a token


@final
@dataclass(frozen=True, eq=False)
class Divergence:
    """KL divergence of a graph's top logits from those of the dense model, in nats, summed over tokens (Tyr).

    `places` are the dense model's largest logits of each token, `logs` its log-probabilities among these. A graph
    without logits, or a loss of its own, is judged by that loss.
    """

    graph: Graph
    batches: Sequence[Batch]
    places: Sequence[Tensor]
    logs: Sequence[Tensor]
    loss: Loss | None = None

    def __call__(self, values: tuple[Tensor, ...], index: int) -> float:
        batch = self.batches[index]
        if not self.places:
            return float(output_loss(self.graph, values, batch, self.loss)) * predictions(batch)
        logits = values[self.graph.outputs.index("logits")]
        found = torch.log_softmax(logits.gather(-1, self.places[index]).float(), -1)
        wanted = self.logs[index]
        return float((wanted.exp() * (wanted - found)).sum())


def measure_dense(graph: Graph, batches: Sequence[Batch], loss: Loss | None = None) -> Divergence:
    """What other graphs are compared with: one run of the dense model."""
    places, logs = list[Tensor](), list[Tensor]()
    if loss is None and "logits" in graph.outputs:
        for batch in batches:
            with torch.no_grad():
                logits = run_batch(graph, batch)[graph.outputs.index("logits")]
            largest = logits.topk(min(_TOP, logits.shape[-1]), -1)
            places.append(largest.indices)
            logs.append(torch.log_softmax(largest.values.float(), -1))
    return Divergence(graph, batches, places, logs, loss)


def tokens_in(batches: Sequence[Batch]) -> int:
    """The number of predictions that a divergence is summed over."""
    return sum(batch.numel() if isinstance(batch, Tensor) else predictions(batch) for batch in batches)
