"""Activation room: what a backward pass holds, and whether the memory there is suffices for all layers at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphprune.analysis.groups import Groups
from graphprune.analysis.layers import find_layers
from graphprune.ir.graph import Graph
from graphprune.ir.operators import SAME_VALUES, opname
from graphprune.ir.sizes import concrete
from graphprune.ir.types import TensorType
from graphprune.running.inputs import Batch
from graphprune.weights.stored import any_stored

_TOKENS = 512  # that are looked at together, unless a row has more
_SHARE = 0.5  # of the memory there is, which values for backward may take
_LOGITS = 3  # the logits, what the loss makes of them, and their gradient


def small_batches(batches: Sequence[Batch]) -> list[Batch]:
    """The same rows, fewer at a time; batches of named tensors as they are."""
    found: list[Batch] = []
    for batch in batches:
        parts = torch.split(batch, max(1, _TOKENS // batch.shape[1])) if isinstance(batch, Tensor) else (batch,)
        found += parts
    return found


def segment_ends(graph: Graph, groups: Groups, batches: Sequence[Batch], room: int | None) -> list[str] | None:
    """The names of nodes between which backward has to go segment by segment: the ends of layers. None where the whole
    graph goes at once, as it does where the weights are in memory, or the values for backward fit into the `room`."""
    if not any_stored(graph.tensors().values()):
        return None
    if room is not None and all(held_bytes(graph, batch) <= room * _SHARE for batch in batches):
        return None
    return [layer[-1].add for layer in find_layers(groups)]


def held_bytes(graph: Graph, batch: Batch) -> int:
    """About what autograd holds of a batch from forward to backward: every value that an operator makes, but views."""
    if not isinstance(batch, Tensor):
        return 0
    sizes = {"batch": len(batch), "sequence": batch.shape[1], "past": 0}
    logits = graph.results.get("logits")
    total = 0
    for node in graph.nodes:
        value = node.meta.get("value")
        if node.op != "call_function" or not isinstance(value, TensorType) or not value.dtype.is_floating_point:
            continue
        if opname(node) in SAME_VALUES:
            continue
        count = 1
        for size in concrete(value.shape, sizes):
            count *= size
        total += count * value.dtype.itemsize * (_LOGITS if node is logits else 1)
    return total
