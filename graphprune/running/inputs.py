"""Inputs: what a graph takes, made from token ids or from a batch of named tensors."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from graphprune.errors import DataError, UsageError
from graphprune.ir.contract import is_state, rows_of_ids
from graphprune.ir.graph import Graph
from graphprune.ir.placement import device_of
from graphprune.ir.sizes import symbol
from graphprune.ir.types import tensor_type

# Token ids [batch, sequence] for language models; otherwise named tensors, of which the graph takes its inputs.
Batch = Tensor | Mapping[str, Tensor]


def decoder_inputs(graph: Graph, ids: Tensor) -> tuple[Tensor, ...]:
    """Every input of a language model for token ids [batch, sequence]: nothing masked, empty caches, in order."""
    device = device_of(graph)
    batch, sequence = len(ids) // rows_of_ids(graph), ids.shape[1]
    present = {symbol("batch"): batch, symbol("sequence"): sequence, symbol("past"): 0}
    ids = ids.to(device)
    given = {"input_ids": ids, "position_ids": torch.arange(sequence, device=device).expand(batch, -1)}
    inputs = []
    for name, node in graph.placeholders.items():
        kind = tensor_type(node)
        shape = [size if isinstance(size, int) else int(size.xreplace(present)) for size in kind.shape]
        if name == "attention_mask":
            inputs.append(torch.ones(shape, dtype=kind.dtype, device=device))
        elif name == "token_type_ids" or is_state(name):
            inputs.append(torch.zeros(shape, dtype=kind.dtype, device=device))
        elif name in given:
            inputs.append(given[name])
        else:
            raise UsageError(f"the graph takes {name!r}, which token ids do not give; pass batches of named tensors")
    return tuple(inputs)


def run_batch(graph: Graph, batch: Batch) -> tuple[Tensor, ...]:
    """Run the graph on token ids, or on the inputs that it takes from a batch of named tensors."""
    return graph(*graph_inputs(graph, batch))


def graph_inputs(graph: Graph, batch: Batch) -> tuple[Tensor, ...]:
    """The graph's inputs in order, for token ids or for a batch of named tensors."""
    if isinstance(batch, Tensor):
        return decoder_inputs(graph, batch)
    missing = [name for name in graph.inputs if name not in batch]
    if missing:
        raise DataError(f"the batch lacks {', '.join(missing)}; it has {', '.join(batch) or 'nothing'}")
    return tuple(batch[name].to(device_of(graph)) for name in graph.inputs)


def by_name(batch: Batch) -> Mapping[str, Tensor]:
    """The tensors of a batch in the order of their names."""
    return {"ids": batch} if isinstance(batch, Tensor) else dict(sorted(batch.items()))


def rows(batch: Batch) -> int:
    """The number of samples in a batch."""
    return len(batch) if isinstance(batch, Tensor) else len(next(iter(batch.values())))


def samples(batch: Batch) -> Iterator[Batch]:
    """The batch as batches of one sample each."""
    for row in range(rows(batch)):
        part = slice(row, row + 1)
        yield batch[part] if isinstance(batch, Tensor) else {name: tensor[part] for name, tensor in batch.items()}


def split_parts(batches: Sequence[Batch], count: int) -> tuple[tuple[Batch, ...], ...]:
    """The batches in order as `count` parts of nearly as many each, or as samples where there are fewer batches.

    Of fewer samples each is a part.
    """
    items = tuple(batches) if len(batches) >= count else tuple(each for batch in batches for each in samples(batch))
    parts = min(count, len(items))
    ends = [len(items) * place // parts for place in range(parts + 1)] if parts else [0]
    return tuple(items[start:end] for start, end in pairwise(ends))
