"""Caches: the states of a decoder read from a transformers cache, and put into an empty one."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from graphprune.ir.contract import State

if TYPE_CHECKING:
    from transformers import Cache


# The parts that grow with the context: the attribute of the cache's layer, and the dimension that tokens lie along.
_GROWING: Mapping[str, tuple[str, int]] = MappingProxyType(
    {"key": ("keys", 2), "value": ("values", 2), "indexer": ("indexer_keys", 1)}
)
# The parts of a fixed size, of which a layer may have several: the window of a convolution and a recurrent state.
_FIXED: Mapping[str, str] = MappingProxyType({"conv": "conv_states", "recurrent": "recurrent_states"})


def keeps_keys(cache: "Cache") -> bool:
    """Say whether any layer of a transformers cache keeps keys and values. Where none does, models take a mask of the
    new tokens alone."""
    from transformers.cache_utils import CacheLayerMixin

    return any(isinstance(layer, CacheLayerMixin) for layer in cache.layers)


def layer_tensors(layer: Any) -> Iterator[tuple[str, Tensor]]:
    """What a layer of a transformers cache holds, by part."""
    for part, (attribute, _) in _GROWING.items():
        tensor = getattr(layer, attribute, None)
        if isinstance(tensor, Tensor):
            yield part, tensor
    for part, attribute in _FIXED.items():
        for index, tensor in getattr(layer, attribute, {}).items():
            if isinstance(tensor, Tensor):
                yield f"{part}{index or ''}", tensor


def read_states(cache: "Cache") -> tuple[State, ...]:
    """The states of a cache after a run."""
    return tuple(
        State(index, part, state_shape(part, tensor), tensor.dtype)
        for index, layer in enumerate(cache.layers)
        for part, tensor in layer_tensors(layer)
    )


def state_shape(part: str, tensor: Tensor) -> tuple[int | str, ...]:
    shape: list[int | str] = ["batch", *map(int, tensor.shape[1:])]
    if part in _GROWING:
        shape[_GROWING[part][1]] = "past"
    return tuple(shape)


def fill(layer: Any, tensors: Mapping[str, Tensor]) -> None:
    """Put the states of one layer, by part, into an empty layer of a transformers cache."""
    if "key" in tensors:
        layer.lazy_initialization(tensors["key"], tensors["value"])
        layer.keys, layer.values = tensors["key"], tensors["value"]
    if "indexer" in tensors:
        layer.lazy_initialization_indexer(tensors["indexer"])
        layer.indexer_keys = tensors["indexer"]
    for part, attribute in _FIXED.items():
        for index in getattr(layer, attribute, {}):
            if f"{part}{index or ''}" in tensors:
                fill_fixed(layer, part, index, tensors[f"{part}{index or ''}"])


def fill_fixed(layer: Any, part: str, index: int, tensor: Tensor) -> None:
    getattr(layer, _FIXED[part])[index] = tensor
    getattr(layer, f"is_{_FIXED[part]}_initialized")[index] = True
    layer.has_previous_state[index] = True
    layer.device, layer.dtype = tensor.device, tensor.dtype
    if part == "conv":
        layer.conv_kernel_size[index] = int(tensor.shape[-1])
