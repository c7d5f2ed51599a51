"""Opening: a mixture of experts as a model whose experts stay in its files until tokens are routed to them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from graphprune.amounts import show_bytes
from graphprune.errors import UsageError
from graphprune.frontend.checks import check_weights
from graphprune.frontend.places import look_at
from graphprune.frontend.room import read_room
from graphprune.generic.modeling_graphprune import GraphprunePreTrainedModel
from graphprune.offload.experts import origin_of
from graphprune.offload.skeletons import fill, make_empty, put, require_filled, types_of
from graphprune.offload.sources import Files, find_sources
from graphprune.offload.stacked import stacked_weights
from graphprune.weights.load_log import LoadLog
from graphprune.weights.mapping import free_at_once
from graphprune.weights.residents import Origin, Residents
from graphprune.weights.stacks import Stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Offloaded:
    """A model of transformers whose experts are streamed by `residents`; `always` are the bytes of what never
    leaves, `whole` of all weights.

    It computes what the model does that has all its weights in memory, bit for bit on the processor.
    """

    model: "PreTrainedModel"
    residents: Residents
    always: int
    whole: int
    folder: Path

    @contextlib.contextmanager
    def without_experts(self) -> Iterator[None]:
        """The model with memory that nobody has written to in the place of its experts, which costs nothing."""
        stacks = {each.name: self.model.get_parameter(each.name) for each in self.residents.origins}
        for name, stack in stacks.items():
            put(self.model, name, torch.empty(stack.shape, dtype=stack.dtype))
        try:
            yield
        finally:
            for name, stack in stacks.items():
                put(self.model, name, stack)


def open_offloaded(
    model: str | Path, memory: str, dtype: torch.dtype | None = None, log: Path | None = None, ahead: bool = True
) -> Offloaded:
    """Open a folder, hub id or `demo`, a source or what compile wrote, with at most `memory` of weights at a time.

    Weights are of `dtype`, by default of the type that they are stored in. What every token needs is read now; the
    experts of each layer are read as tokens are routed to them, and the loads are written to `log` as JSON lines.
    Raises UsageError where `memory` is too little, with the least that works; SourceError.
    """
    folder = look_at(str(model))
    held = check_weights(folder)
    free_at_once()
    made, files = make_empty(folder, dtype), Files(held.files)
    sources, types = find_sources(made, files), types_of(made)
    stacks = [name for name in stacked_weights(made) if name in sources]
    gathers = isinstance(made, GraphprunePreTrainedModel)
    origins = [origin_of(n, made.get_parameter(n), types[n], sources[n], files, gathers) for n in stacks]
    own = dict([*made.named_parameters(), *made.named_buffers()])  # a tied tensor is there once
    always = sum(tensor.numel() * types[name].itemsize for name, tensor in own.items() if name not in stacks)
    budget = require_memory(str(folder), memory, origins, always)
    fill(made, {name: each for name, each in sources.items() if name not in stacks}, files, types)
    residents = Residents(origins, budget - always, LoadLog(log), ahead)
    for number, name in enumerate(stacks):
        like = torch.empty(made.get_parameter(name).shape, dtype=types[name], device="meta")
        put(made, name, Stack(like, residents, number, name))
    require_filled(folder, made)
    whole = always + sum(each.experts * each.bytes for each in origins)
    return Offloaded(made.eval(), residents, always, whole, folder)


def require_memory(name: str, memory: str, origins: list[Origin], always: int) -> int:
    """The bytes of weights that may be in memory. Raises UsageError where they are too few, with the least."""
    budget, largest = read_room(memory), max((origin.bytes for origin in origins), default=0)
    assert budget is not None
    if budget < always + largest:
        more = f" and the largest weight of an expert {show_bytes(largest)}" if origins else ", and it has no experts"
        raise UsageError(
            f"--memory {memory} is too little for {name}: what every token needs takes {show_bytes(always)}{more}; "
            f"{always + largest:,} bytes are the least"
        )
    return budget
