"""Weights that stay in their file: the model is traced with empty ones in their place, which the graph gets later."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from graphprune.errors import CaptureError, first_line, foreign
from graphprune.frontend.pretrained import capture_pretrained, require_same
from graphprune.ir.graph import Graph
from graphprune.weights.mapping import free_at_once, is_mapped, mapped_ranges, release
from graphprune.weights.stored import store

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def capture_stored(model: "PreTrainedModel", dtype: torch.dtype) -> Graph:
    """Capture a model whose weights keep the type and the place that they have, and are read as `dtype`.

    The model becomes one of such weights as well, and the graph is compared with it. Raises CaptureError, also where
    its class cannot be made without weights.
    """
    with foreign(lambda error: CaptureError(f"its weights cannot stay in their file: {first_line(error)}")):
        return capture_with_empty(model, dtype)


def capture_with_empty(model: "PreTrainedModel", dtype: torch.dtype) -> Graph:
    free_at_once()
    held = parameters_of(model)
    put_buffers(model, dtype)
    # Memory that nobody writes to is none.
    empty = {key: nn.Parameter(torch.empty(each.shape, dtype=dtype), each.requires_grad) for key, each in held.items()}
    put(model, empty)
    graph = capture_pretrained(model, compare=False)
    ranges = mapped_ranges()
    kept = {key: stored(each, dtype, ranges) for key, each in held.items()}
    places = {id(empty[key]): each for key, each in kept.items()}
    put(model, places)
    bound = graph.with_tensors({name: places[id(t)] for name, t in graph.tensors().items() if id(t) in places})
    require_same(model, bound, bound.source.dense_rows)
    return bound


def keep_in_file(model: "PreTrainedModel", dtype: torch.dtype) -> None:
    """Let a model's weights keep the type and the place that they have, and be read as `dtype`."""
    free_at_once()
    ranges = mapped_ranges()
    put_buffers(model, dtype)
    put(model, {key: stored(each, dtype, ranges) for key, each in parameters_of(model).items()})


def parameters_of(model: nn.Module) -> dict[int, nn.Parameter]:
    """The parameters that hold numbers to compute with, each once, by what tells one from another."""
    return {id(each): each for each in model.parameters() if each.is_floating_point()}


def put(model: nn.Module, others: Mapping[int, nn.Parameter]) -> None:
    """Put other parameters in the place of a model's, by which they replace."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and id(parameter) in others:
                module._parameters[name] = others[id(parameter)]


def put_buffers(model: "PreTrainedModel", dtype: torch.dtype) -> None:
    """Give a model the buffers that it has where it is made in this type: no file holds those that it computes."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        fresh = type(model)._from_config(model.config, dtype=dtype)
    known = {key: buffer for key, buffer in fresh.named_buffers() if not buffer.is_meta}
    for path, module in model.named_modules():
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.is_floating_point():
                computed = known.get(f"{path}.{name}") if name in module._non_persistent_buffers_set else None
                module._buffers[name] = buffer.to(dtype) if computed is None else computed


def stored(parameter: nn.Parameter, dtype: torch.dtype, ranges: tuple[tuple[int, int], ...]) -> nn.Parameter:
    mapped = is_mapped(parameter, ranges)
    if mapped:
        release(parameter.detach())
    made: Tensor = store(parameter, dtype, mapped)
    assert isinstance(made, nn.Parameter)
    return made
