"""The loss of a graph on a batch: complete inputs from token ids alone, and the next-token cross entropy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from graphprune.errors import DataError, UsageError
from graphprune.ir.graph import Graph
from graphprune.running.inputs import Batch, decoder_inputs, rows, run_batch

# From the outputs of the graph and the batch to a scalar: the mean over the batch.
Loss = Callable[[tuple[Tensor, ...], Batch], Tensor]


@final
@dataclass(frozen=True)
class RowMean:
    """A loss that is the mean over the rows of a batch, each of which it sees by itself: no row depends on another."""

    of: Loss

    def __call__(self, values: tuple[Tensor, ...], batch: Batch) -> Tensor:
        return self.of(values, batch)


@final
@dataclass(frozen=True)
class Comparing:
    """A loss that compares the rows of a batch with each other: of one row alone it says nothing."""

    of: Loss

    def __call__(self, values: tuple[Tensor, ...], batch: Batch) -> Tensor:
        if rows(batch) < 2:
            raise DataError("a loss that compares pairs needs 2 or more in a batch; give more with --samples")
        return self.of(values, batch)


def next_token_loss(graph: Graph, ids: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Cross entropy in nats of each token given those before it in its row, in float32 or wider: a scalar.

    `ids` is [batch, sequence]; the first token of a row is not predicted.
    """
    return predict(graph, graph(*decoder_inputs(graph, ids)), ids, reduction)


def predict(graph: Graph, values: tuple[Tensor, ...], ids: Tensor, reduction: Literal["mean", "sum"]) -> Tensor:
    """The next-token loss for outputs that the graph has given."""
    if "logits" not in graph.outputs:
        raise UsageError("the graph has no logits; pass a loss and batches of named tensors")
    logits = values[graph.outputs.index("logits")]
    targets = ids[:, 1:].to(logits.device).flatten()
    wide = logits[:, :-1].flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    return torch.nn.functional.cross_entropy(wide, targets, reduction=reduction)


def batch_loss(graph: Graph, batch: Batch, loss: Loss | None = None) -> Tensor:
    """The given loss of the graph's outputs, or the mean next-token loss where none is given."""
    return output_loss(graph, run_batch(graph, batch), batch, loss)


def output_loss(graph: Graph, values: tuple[Tensor, ...], batch: Batch, loss: Loss | None = None) -> Tensor:
    """The batch's loss for outputs that the graph has given."""
    if loss is not None:
        return loss(values, batch)
    if not isinstance(batch, Tensor):
        raise UsageError("batches of named tensors need a loss: loss(outputs, batch) -> scalar")
    return predict(graph, values, batch, "mean")


def predictions(batch: Batch) -> int:
    """How many predictions the mean loss of a batch is taken over: tokens but the first of a row, or samples."""
    return len(batch) * (batch.shape[1] - 1) if isinstance(batch, Tensor) else rows(batch)
