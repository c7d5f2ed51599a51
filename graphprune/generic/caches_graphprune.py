"""Caches of transformers as the states of a graph, and back.

This file stands alone: graphprune writes it beside modeling_graphprune.py. `caches` names the inputs of a graph that
are states: for each layer, the part (`key`, `value`, `conv`) and the name.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import cache_utils

Caches = Sequence[Mapping[str, str]]

# Where a layer of a cache keeps its states: those that grow with their dimension of tokens, and those of a fixed size.
GROWING = {"key": ("keys", 2), "value": ("values", 2), "indexer": ("indexer_keys", 1)}
FIXED = {"conv": "conv_states", "recurrent": "recurrent_states"}
# The layers of a cache that do with states what the graph does; one with a sliding window would drop keys.
LAYERS = {
    "DynamicLayer",
    "StaticLayer",
    "DynamicIndexedLayer",
    "LinearAttentionLayer",
    "LinearAttentionAndFullAttentionLayer",
}


def held_tensors(layer: Any) -> Iterator[tuple[str, Tensor]]:
    """What a layer of a cache holds, by part: `key`, `value`, `indexer`, `conv`, `conv1`, `recurrent`."""
    for part, (attribute, _) in GROWING.items():
        if isinstance(getattr(layer, attribute, None), Tensor):
            yield part, getattr(layer, attribute)
    for part, attribute in FIXED.items():
        for index, tensor in getattr(layer, attribute, {}).items():
            if isinstance(tensor, Tensor):
                yield f"{part}{index or ''}", tensor


def store_fixed(layer: Any, part: str, tensor: Tensor) -> None:
    kind = part.rstrip("0123456789")
    index = int(part.removeprefix(kind) or 0)
    getattr(layer, FIXED[kind])[index] = tensor
    getattr(layer, f"is_{FIXED[kind]}_initialized")[index] = layer.has_previous_state[index] = True
    layer.device, layer.dtype = tensor.device, tensor.dtype
    if kind == "conv":
        layer.conv_kernel_size[index] = tensor.shape[-1]


def cache_names(inputs: Sequence[str]) -> list[dict[str, str]]:
    """The states among the inputs of a graph, by layer and part."""
    layers: dict[str, dict[str, str]] = {}
    for name in inputs:
        if name.startswith("past_key_values."):
            _, index, part = name.split(".")
            layers.setdefault(index, {})[part] = name
    return list(layers.values())


def find_layer(cache: Any, index: int) -> Any:
    layer = cache.layers[index]
    if cache.offloading or type(layer).__name__ not in LAYERS:
        raise ValueError("a graphprune model takes a DynamicCache or a StaticCache made with its own configuration")
    return layer


def require_past(caches: Caches, cache: Any, ids: Tensor, mask: Tensor | None) -> None:
    """Raise where a mask covers tokens before these and no cache has them: what follows would be made without a past.

    So it was when transformers 5.24 gave caches another name, which a model of before did not look at.
    """
    if cache is None and caches and mask is not None and mask.shape[1] > ids.shape[1]:
        raise ValueError(
            f"the attention mask covers {mask.shape[1]} tokens, the input has {ids.shape[1]}, and no cache was given: "
            "pass it as past_key_values or cache; where generate did this, compile again with a newer graphprune"
        )


def read_past(caches: Caches, cache: Any, past: int, empty: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The states that a cache holds by the name of the input, and those of `empty` where it holds none."""
    inputs = {}
    for index, names in enumerate(caches):
        held = dict(held_tensors(find_layer(cache, index))) if cache is not None else {}
        for part, name in names.items():
            grows = part in GROWING
            tensor = held.get(part) if past or not grows else None
            tensor = empty[name] if tensor is None else tensor
            inputs[name] = tensor.narrow(GROWING[part][1], 0, past) if grows else tensor
    return inputs


def store_present(caches: Caches, cache: Any, outputs: Mapping[str, Tensor], past: int, dtype: torch.dtype) -> None:
    """Put the new states into the cache; a growing cache takes the tensors as they are."""
    for index, names in enumerate(caches):
        layer = find_layer(cache, index)
        new = {part: outputs[name.replace("past_key_values.", "present.")] for part, name in names.items()}
        if type(layer) is cache_utils.StaticLayer:
            cache.update(*(new[part][:, :, past:].to(dtype) for part in ("key", "value")), index)
            continue
        if "key" in new and not layer.is_initialized:
            layer.lazy_initialization(new["key"], new["value"])
        for part, tensor in new.items():
            if part in GROWING:
                setattr(layer, GROWING[part][0], tensor.to(dtype))
            else:
                store_fixed(layer, part, tensor)
