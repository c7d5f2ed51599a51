"""The choice of what is held between forward and backward, where the options leave it open."""

import torch

from graphprune.ir.graph import Graph
from graphprune.ir.operators import operator_key
from graphprune.ir.sizes import byte_count
from graphprune.ir.types import TensorType
from graphprune.processes import process_count
from graphprune.training.execution.recomputed import VIEWS, Checkpoint, differentiable, recomputed
from graphprune.weights.memory import free_memory

_WAYS: tuple[Checkpoint, ...] = ("off", "selective", "full")
_ENOUGH = 0.8  # of the free memory: an allocator leaves holes, and one layer's gradients are there as well


def choose_checkpoint(graph: Graph, rows: int, length: int, free: int | None, spare: bool) -> Checkpoint:
    """The fastest way whose values fit into `free` bytes; the tightest where none does.

    Without `spare`, memory that others could use is not spent on the few percent of time that `off` gains.
    """
    ways = _WAYS if spare and free is not None else _WAYS[1:]
    for way in ways:
        if free is None or held_bytes(graph, way, rows, length) <= _ENOUGH * free:
            return way
    return ways[-1]


def held_bytes(graph: Graph, checkpoint: Checkpoint, rows: int, length: int) -> int:
    """The bytes that forward holds for backward, from above: of every value that may be saved and is no view."""
    again, total = recomputed(graph, checkpoint), 0
    present = {"batch": rows, "sequence": length, "past": 0}
    for node in differentiable(graph):
        kind = node.meta.get("value")
        if node.op != "call_function" or node.name in again or operator_key(node) in VIEWS:
            continue
        if isinstance(kind, TensorType):
            total += byte_count(kind, present)
    return total


def free_bytes(device: torch.device) -> int | None:
    """What a training on this device may still take; processes on one machine share it. None where it is not known."""
    free = free_memory(device)
    return free // process_count() if free is not None and device.type == "cpu" else free
