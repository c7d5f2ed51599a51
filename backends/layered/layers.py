"""A Llama-shaped decoder layer by layer: the sizes of each, and its tensors by the names that they have in it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphprune.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

    from graphprune.ir.graph import Graph

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
ROTATIONS = ("default", "linear", "llama3")
TABLE, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer: query heads, key heads and MLP channels, 0 of what is absent, and its tensors by the names in it."""

    heads: int
    key_heads: int
    channels: int
    tensors: "Mapping[str, Tensor]"


@dataclass(frozen=True, eq=False)
class Decoder:
    """All layers that are left, in order, and the tensors outside: the table, the last norm, the head unless tied."""

    width: int
    vocabulary: int
    head_size: int
    layers: tuple[Layer, ...]
    outside: "Mapping[str, Tensor]"


def require_class(graph: "Graph", classes: frozenset[str], form: str) -> "PretrainedConfig":
    """The configuration of a source whose class computes what the form's does. Raises ExportError.

    The graph may have no weights.
    """
    if graph.source.kind != "decoder" or graph.source.architecture not in classes:
        found = graph.source.architecture or "this model"
        raise ExportError(f"{form} is written for {', '.join(sorted(classes))}, and {found} is none of them")
    config = graph.source.model_config
    if getattr(config, "hidden_act", "silu") not in ("silu", "swish"):
        raise ExportError(f"{form} computes silu, and the model {config.hidden_act}")
    if getattr(config, "sliding_window", None):
        raise ExportError(f"{form} has no sliding window, and the model has one")
    return config


def rotation_of(config: "PretrainedConfig") -> dict[str, Any]:
    """How positions are rotated, as transformers 5 says it, with its `rope_type` and `rope_theta`."""
    given = dict(getattr(config, "rope_parameters", None) or {})
    return {"rope_type": "default", "rope_theta": 10000.0, **given}


def require_rotation(config: "PretrainedConfig", known: tuple[str, ...], form: str, remedy: str) -> dict[str, Any]:
    """The rotation, which must be one of the kinds that the form has. Raises ExportError."""
    rope = rotation_of(config)
    if rope["rope_type"] not in known or float(rope.get("partial_rotary_factor") or 1) != 1:
        raise ExportError(f"{form} has no rotary embeddings of type {rope['rope_type']}{remedy}")
    return rope


def read_decoder(graph: "Graph", form: str) -> Decoder:
    """The layers of a graph. Raises ExportError for what has no place in them."""
    from graphprune.backends.huggingface.generic_checkpoint import narrowed_tensors

    config, parameters = graph.source.model_config, graph.parameters()
    size = require_head_size(graph, config, form)
    found: dict[int, dict[str, Tensor]] = {}
    outside: dict[str, Tensor] = {}
    for name, tensor in narrowed_tensors(graph).items():
        match = _LAYER.fullmatch(name)
        if match is not None and name in parameters:
            found.setdefault(int(match[1]), {})[match[2]] = tensor
        elif name in (TABLE, NORM, HEAD):
            outside[name] = tensor
        elif name in parameters:
            raise ExportError(f"{form} has no place for {name}")
    vocabulary, width = outside[TABLE].shape
    if graph.lineage.plan.statistics == "exact" and width != config.hidden_size:
        raise ExportError(f"{form}'s norms average over what is kept; prune with --statistics survivors")
    if config.tie_word_embeddings:
        outside.pop(HEAD, None)
    layers = tuple(read_layer(found[index], size) for index in sorted(found))
    if not any(layer.heads for layer in layers):
        raise ExportError(f"{form} needs attention in some layer, and none is left")
    return Decoder(int(width), int(vocabulary), size, layers, outside)


def require_head_size(graph: "Graph", config: "PretrainedConfig", form: str) -> int:
    """The head size, which must be the source's: rotations go with it. Raises ExportError."""
    found = {int(n.meta["value"].shape[3]) for name, n in graph.placeholders.items() if name.startswith("past_key")}
    size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    if found - {size}:
        raise ExportError(f"{form} needs heads of one size, {size} here; prune no head_dim")
    return size


def read_layer(tensors: "Mapping[str, Tensor]", size: int) -> Layer:
    """The sizes of a layer by those of its tensors."""
    rows = {name.split(".")[1]: len(t) for name, t in tensors.items() if name.endswith(".weight") and "_proj" in name}
    heads, keys = rows.get("q_proj", 0) // size, rows.get("k_proj", 0) // size
    return Layer(heads, keys, rows.get("gate_proj", 0), tensors)


def has_bias(layers: tuple[Layer, ...], *projections: str) -> bool:
    """Whether some of these projections have a bias in some layer."""
    return any(f".{part}.bias" in f".{name}" for layer in layers for name in layer.tensors for part in projections)
