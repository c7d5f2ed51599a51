"""Stacked weights: which parameters of a model are weights of experts, one beside the other."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")  # what modules of experts call their number
_PICKS = (torch.ops.aten.index.Tensor, torch.ops.aten.select.int)


def stacked_weights(model: "PreTrainedModel") -> list[str]:
    """The parameters [experts, ...] of three dimensions that only the experts asked for are read of, in order."""
    from graphprune.generic.modeling_graphprune import GraphprunePreTrainedModel

    if isinstance(model, GraphprunePreTrainedModel):
        return picked_tensors(model)
    return [
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and len(parameter) in counts_of(module)
    ]


def counts_of(module: nn.Module) -> Iterator[int]:
    return (count for name in _COUNTS if isinstance(count := getattr(module, name, None), int))


def picked_tensors(model: Any) -> list[str]:
    """The parameters of a model in the generic form whose every reader picks entries of the first dimension."""
    from graphprune.generic.program_graphprune import Value, references

    program, own = model.program, dict(model.named_parameters())
    places = {index: name for name, index in program.tensors.items() if name in own and own[name].ndim == 3}
    for function, args, kwargs in program.nodes:
        if isinstance(function, str):
            continue
        first = args[0].index if args and isinstance(args[0], Value) else None
        picks = function in _PICKS and (function is not _PICKS[0] or len(args[1]) == 1) and args[1] != 1
        for read in [*references(args), *references(kwargs)]:
            if read in places and not (picks and read == first):
                del places[read]
    for index in program.returned:
        places.pop(index, None)
    return [name for name in own if name in places.values()]
