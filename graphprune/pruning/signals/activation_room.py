"""Activation room: what a backward pass holds, and whether the memory there is suffices for all layers at once."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from graphprune.analysis.groups import Groups
from graphprune.analysis.layers import find_layers
from graphprune.ir.graph import Graph
from graphprune.ir.operators import SAME_VALUES, opname
from graphprune.ir.sizes import byte_count
from graphprune.ir.types import TensorType
from graphprune.running.inputs import Batch
from graphprune.weights.stored import any_stored

_TOKENS = 512  # that are looked at together, unless a row has more
_SHARE = 0.5  # of the memory there is, which values for backward may take
_HANDED = 0.25  # of the memory there is, which what layers hand to each other may take
_MUCH = 2_000_000_000  # bytes of what a part needs for all layers at once, from which a second forward is cheaper
_LOGITS = 3  # the logits, what the loss makes of them, and their gradient


def small_batches(batches: Sequence[Batch]) -> list[Batch]:
    """The same rows, fewer at a time; batches of named tensors as they are."""
    found: list[Batch] = []
    for batch in batches:
        parts = torch.split(batch, max(1, _TOKENS // batch.shape[1])) if isinstance(batch, Tensor) else (batch,)
        found += parts
    return found


def segment_ends(
    graph: Graph, groups: Groups, batches: Sequence[Batch], room: int | None, sums: int | None = None
) -> list[str] | None:
    """The names of nodes between which backward has to go segment by segment: the ends of layers. None where the whole
    graph goes at once.

    It does where the weights are in memory, unless all layers have `sums` too, bytes that a segment has its share of,
    and together they are many; of weights in their file, where the values for backward fit into the `room`.
    """
    in_memory = not any_stored(graph.tensors().values())
    most = (None if sums is None else _MUCH - sums) if in_memory else (None if room is None else room * _SHARE)
    if in_memory and most is None:
        return None
    if most is not None and all(held_bytes(graph, batch) <= most for batch in batches):
        return None
    return [layer[-1].add for layer in find_layers(groups)]


def shelf_of(
    graph: Graph, ends: Sequence[str] | None, batches: Sequence[Batch], room: int | None, folder: Path | None
) -> Path | None:
    """The folder in which what these nodes give, of all batches, has to wait; None where it has room in memory."""
    if ends is None or room is None or handed_bytes(graph, ends, batches) <= room * _HANDED:
        return None
    return folder or Path(tempfile.gettempdir())


def handed_bytes(graph: Graph, ends: Sequence[str], batches: Sequence[Batch]) -> int:
    """What these nodes give of all batches together."""
    types = [node.meta["value"] for node in graph.nodes if node.name in set(ends)]
    return sum(byte_count(each, sizes_of(batch)) for batch in batches if isinstance(batch, Tensor) for each in types)


def sizes_of(batch: Tensor) -> Mapping[str, int]:
    return {"batch": len(batch), "sequence": batch.shape[1], "past": 0}


def held_bytes(graph: Graph, batch: Batch) -> int:
    """About what autograd holds of a batch from forward to backward: every value that an operator makes, but views."""
    if not isinstance(batch, Tensor):
        return 0
    sizes, logits = sizes_of(batch), graph.results.get("logits")
    total = 0
    for node in graph.nodes:
        value = node.meta.get("value")
        if node.op != "call_function" or not isinstance(value, TensorType) or not value.dtype.is_floating_point:
            continue
        if opname(node) in SAME_VALUES:
            continue
        total += byte_count(value, sizes) * (_LOGITS if node is logits else 1)
    return total
