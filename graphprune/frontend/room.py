"""Room: whether a model's weights are read into memory, or stay in their file until an operator reads them."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from graphprune.amounts import read_bytes, show_bytes
from graphprune.errors import UsageError
from graphprune.frontend.checks import find_weights
from graphprune.frontend.places import is_generic
from graphprune.ir.graph import Graph
from graphprune.ir.placement import real_weights
from graphprune.weights.memory import free_memory

if TYPE_CHECKING:
    import torch

_TIMES = 3  # what a compilation holds of the source, of the result and in between, in weights of the source
_RESULT = 2  # what is held of a result where it is checked
_LAYER = re.compile(r".*?\.\d+\.")  # what begins the names of a layer's tensors
_MORE = 1 << 29  # bytes besides: libraries, text


def read_room(memory: str | None, device: "torch.device | None" = None) -> int | None:
    """The bytes that a run may take of a device: those that were asked for, or what is free; None where nobody knows.

    Raises UsageError.
    """
    if memory is None:
        return free_memory(device)
    amount = read_bytes(memory)
    if amount.unit == "%":
        free = free_memory(device)
        if free is None:
            raise UsageError(f"--memory {memory}: this system does not tell what is free; write bytes, such as 12GB")
        return int(free * amount.value / 100)
    return int(amount.value)


def wide_bytes(folder: Path) -> int:
    """What the weights in a folder take in float32."""
    return sum(4 * math.prod(entry.shape) for entry in find_weights(folder).entries.values())


def stays_in_file(folder: Path, memory: str | None, device: "torch.device | None" = None) -> bool:
    """Whether the weights of a source are too large to be compiled in the memory of a device, or of the processor."""
    if is_generic(folder):
        return False
    needed, apart = _TIMES * wide_bytes(folder), device is not None and device.type != "cpu"
    return is_too_large(needed, memory, device) or (apart and is_too_large(needed, None))


def is_too_large(needed: int, memory: str | None, device: "torch.device | None" = None) -> bool:
    room = read_room(memory, device)
    return room is not None and needed + _MORE > room


def is_checked_in_file(folder: Path, memory: str | None) -> bool:
    """Whether the weights of a result are too large to be read into the memory there is."""
    return is_too_large(_RESULT * wide_bytes(folder), memory)


def settled(graph: Graph, memory: str | None) -> Graph:
    """The graph with real weights, which are faster, where there is memory for them; else as it is."""
    return graph if is_too_large(_RESULT * 4 * graph.parameter_count(), memory) else real_weights(graph)


def largest_block(folder: Path) -> int:
    """What the largest layer, or the largest tensor outside of layers, takes in float32."""
    sizes: dict[str, int] = {}
    for name, entry in find_weights(folder).entries.items():
        found = _LAYER.match(name)
        block = found[0] if found else name
        sizes[block] = sizes.get(block, 0) + 4 * math.prod(entry.shape)
    return max(sizes.values(), default=0)


def require_room(folder: Path, memory: str | None, device: "torch.device | None" = None) -> None:
    """Raise UsageError where not even one layer at a time has room, with the least that works."""
    room, block = read_room(memory, device), largest_block(folder)
    if room is not None and room < block:
        said = f"--memory {memory} is" if memory else f"{show_bytes(room)}, which are free, are"
        raise UsageError(
            f"{said} too little for {folder}: its largest layer takes {show_bytes(block)} in float32, so that "
            f"{show_bytes(block + _MORE)} are the least to ask for, libraries counted"
        )


def describe_room(folder: Path, memory: str | None, device: "torch.device | None" = None) -> str:
    """A note for a model whose weights stay in their file."""
    needed, room, least = wide_bytes(folder), read_room(memory, device) or 0, largest_block(folder) + _MORE
    more = f", less than the libraries and its largest layer take, {show_bytes(least)}" if room < least else ""
    return (
        f"its weights take {show_bytes(needed)} in float32 and {show_bytes(room)} may be used{more}: they stay in "
        "their file and are widened one at a time, which takes longer"
    )
