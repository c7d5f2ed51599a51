"""A probe: the loss of one graph under thousands of masks, several in one forward, each worked out once."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from graphprune.gates.gated import Gated
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.ir.types import tensor_type
from graphprune.pruning.interfaces import unheard
from graphprune.pruning.search.journal import Journal
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.loss import Loss, output_loss, predictions

Mask = Mapping[str, Tensor]
_NUMBERS = 1 << 22  # logits of one forward, 16 MiB in float32: with more at once a mask takes longer
_MOST = 64  # masks of one forward; more have no less overhead


@final
@dataclass(frozen=True, eq=False)
class MaskProbe:
    """Judges masks, factors [units] for each candidate named, by the mean loss over all predictions of the batches.

    `loss` is taken of the outputs for one batch under one mask: whatever gives a scalar, an accuracy too. `at_once` is
    how many masks go through together; by default what a forward may hold. What is found is written into the journal
    at once, so that the same masks cost nothing later, after a kill too. Without gradients.
    """

    gated: Gated
    batches: Sequence[Batch]
    loss: Loss | None = None
    journal: Journal = field(default_factory=lambda: Journal(None))
    at_once: int | None = None

    def __call__(self, masks: Sequence[Mask], progress: Callable[[int, int], None] = unheard) -> Tensor:
        """The loss of each mask: float64 [masks]. `progress` hears of (done, total) of those that were not known."""
        keys = [key_of(mask) for mask in masks]
        missing = {key: mask for key, mask in zip(keys, masks, strict=True) if not self.journal.knows({"mask": key})}
        done = 0
        for part in parts(list(missing.items()), self.size()):
            found = self.run([mask for _, mask in part])
            for (key, _), value in zip(part, found, strict=True):
                self.journal.value({"mask": key}, lambda value=value: value)  # type: ignore[misc]
            done += len(part)
            progress(done, len(missing))
        return torch.tensor([self.journal.value({"mask": key}, unknown) for key in keys], dtype=torch.float64)

    def size(self) -> int:
        """How many masks go through one forward."""
        if not self.gated.told_apart:
            return 1
        if self.at_once is not None:
            return self.at_once
        words = vocabulary_size(self.gated.graph) or 1
        largest = max(batch.numel() * words if isinstance(batch, Tensor) else numbers(batch) for batch in self.batches)
        return max(1, min(_MOST, _NUMBERS // max(1, largest)))

    @torch.no_grad()
    def run(self, masks: Sequence[Mask]) -> list[float]:
        """The losses of masks that have the same candidates, in one forward for each batch."""
        values = {id: torch.stack([mask[id] for mask in masks]) for id in masks[0]}
        totals, count = [0.0] * len(masks), 0
        for batch in self.batches:
            inputs = graph_inputs(self.gated.graph, repeated(batch, len(masks)))
            outputs = self.gated(values, *inputs)
            for number in range(len(masks)):
                own = own_outputs(self.gated.graph, outputs, number, len(masks))
                totals[number] += float(output_loss(self.gated.graph, own, batch, self.loss)) * predictions(batch)
            count += predictions(batch)
        return [total / count for total in totals]


def unknown() -> float:
    raise AssertionError("every mask was judged")


def parts(entries: Sequence[tuple[str, Mask]], size: int) -> Iterator[Sequence[tuple[str, Mask]]]:
    """Entries in runs of at most this many whose masks have the same candidates."""
    start = 0
    while start < len(entries):
        names, end = entries[start][1].keys(), start + 1
        while end < min(len(entries), start + size) and entries[end][1].keys() == names:
            end += 1
        yield entries[start:end]
        start = end


def own_outputs(graph: Graph, outputs: Sequence[Tensor], number: int, masks: int) -> tuple[Tensor, ...]:
    """The outputs of one mask, of those of all that went through together."""
    return tuple(part_of(*pair, number, masks) for pair in zip(outputs, row_dims(graph), strict=True))


def part_of(value: Tensor, dims: Sequence[int], number: int, masks: int) -> Tensor:
    """What is of one mask in an output for all, along these dimensions."""
    for dim in dims:
        size = value.shape[dim] // masks
        value = value.narrow(dim, number * size, size)
    return value


def row_dims(graph: Graph) -> list[tuple[int, ...]]:
    """The dimensions along which each output has the rows of the batch: the first, and where what is given is compared
    with each other, as images and texts are, a second one."""
    firsts = {tensor_type(node).shape[0] for node in graph.placeholders.values()}
    firsts = {size for size in firsts if not isinstance(size, int)}
    shapes = [tensor_type(node).shape for node in graph.results.values()]
    return [(0, *(dim for dim, size in enumerate(shape) if dim and size in firsts)) for shape in shapes]


def numbers(batch: Mapping[str, Tensor]) -> int:
    """The numbers in a batch of named tensors."""
    return sum(tensor.numel() for tensor in batch.values())


def repeated(batch: Batch, times: int) -> Batch:
    """The rows of a batch again and again."""
    if isinstance(batch, Tensor):
        return torch.cat([batch] * times)
    return {name: torch.cat([tensor] * times) for name, tensor in batch.items()}


def key_of(mask: Mask) -> str:
    """What a mask is known by: its factors, whatever order its candidates stand in."""
    told = hashlib.blake2b(digest_size=16)
    for id, value in sorted(mask.items()):
        told.update(f"{id} {len(value)} ".encode())
        told.update(value.detach().to("cpu", torch.float64).contiguous().numpy().tobytes())
    return told.hexdigest()
