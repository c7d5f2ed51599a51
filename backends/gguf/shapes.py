"""What llama.cpp is told of a decoder: sizes of every layer, and tensors under its names and in its order."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphprune.backends.layered.layers import (
    ROTATIONS,
    require_class,
    require_head_size,
    require_rotation,
    rotation_of,
)
from graphprune.errors import ExportError
from graphprune.ir.graph import Graph
from graphprune.ir.serial import stored_tensors

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Classes of transformers that compute what llama.cpp's architectures `llama` and `deci` do.
_CLASSES = frozenset({"LlamaForCausalLM", "MistralForCausalLM"})
_FORM = "gguf"
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_PARTS = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
_OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


@dataclass(frozen=True, eq=False)
class Shape:
    """Sizes, one entry a layer for heads, key heads and MLP channels, and all tensors by llama.cpp's names.

    A layer without attention has 0 heads.
    """

    width: int
    vocabulary: int
    context: int
    head_size: int
    heads: tuple[int, ...]
    key_heads: tuple[int, ...]
    channels: tuple[int, ...]
    rope_base: float
    linear_scaling: float | None
    epsilon: float
    tensors: Mapping[str, Tensor]

    @property
    def architecture(self) -> str:
        equal = all(len(set(each)) == 1 for each in (self.heads, self.key_heads, self.channels))
        return "llama" if equal else "deci"


def read_shape(graph: Graph) -> Shape:
    """Read a graph as llama.cpp would. Raises ExportError with the reason where it would not compute the same."""
    config = check_source(graph)
    layers, outside = sort_tensors(graph)
    head_size = require_head_size(graph, config, _FORM)
    tensors, heads, key_heads, channels = dict(outside), list[int](), list[int](), list[int]()
    for index, layer in enumerate(layers):
        layer, sizes = complete(layer, head_size, outside["token_embd.weight"])
        tensors |= {f"blk.{index}.{name}": tensor for name, tensor in layer.items()}
        for known, size in zip((heads, key_heads, channels), sizes, strict=True):
            known.append(size)
    if not any(heads):
        raise ExportError("llama.cpp needs attention in some layer, and none is left")
    rope = rotation_of(config)
    if rope["rope_type"] == "llama3":
        tensors["rope_freqs.weight"] = llama3_factors(rope, head_size)
    vocabulary, width = outside["token_embd.weight"].shape
    return Shape(
        width,
        vocabulary,
        int(config.max_position_embeddings),
        head_size,
        tuple(heads),
        tuple(key_heads),
        tuple(channels),
        float(rope["rope_theta"]),
        float(rope["factor"]) if rope["rope_type"] == "linear" else None,
        float(config.rms_norm_eps),
        tensors,
    )


def check_source(graph: Graph) -> "PretrainedConfig":
    """The configuration of a source that llama.cpp's architectures compute. Raises ExportError."""
    config = require_class(graph, _CLASSES, _FORM)
    require_rotation(config, ROTATIONS, _FORM, "")
    width = graph.tensors()["model.embed_tokens.weight"].shape[1]
    if graph.lineage.plan.statistics == "exact" and width != config.hidden_size:
        raise ExportError("llama.cpp's norms average over what is kept; prune with --statistics survivors")
    return config


def sort_tensors(graph: Graph) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """The tensors of every layer that is left, and those outside, by llama.cpp's names. Raises ExportError."""
    layers: dict[int, dict[str, Tensor]] = {}
    outside: dict[str, Tensor] = {}
    parameters = graph.parameters()
    for name, tensor in stored_tensors(graph).items():
        match = _LAYER.fullmatch(name)
        if match is not None and match[2] in _PARTS:
            layers.setdefault(int(match[1]), {})[_PARTS[match[2]]] = tensor
        elif name in _OUTSIDE:
            outside[_OUTSIDE[name]] = tensor
        elif name in parameters:
            raise ExportError(f"llama.cpp's architecture has no place for {name}")
    if graph.source.model_config.tie_word_embeddings:
        outside.pop("output.weight", None)
    return [layers[index] for index in sorted(layers)], outside


def complete(
    layer: Mapping[str, Tensor], head_size: int, table: Tensor
) -> tuple[dict[str, Tensor], tuple[int, int, int]]:
    """A layer as llama.cpp reads it, and its heads, key heads and channels.

    Queries and keys are put in the order of its rotations. For a dropped MLP a small one of zeros stands: llama.cpp
    passes over a layer without.
    """
    result, width = dict(layer), int(table.shape[1])
    if "ffn_down.weight" not in result:
        zeros = {"ffn_gate": (32, width), "ffn_up": (32, width), "ffn_down": (width, 32)}
        result |= {f"{name}.weight": torch.zeros(shape, dtype=table.dtype) for name, shape in zeros.items()}
        result["ffn_norm.weight"] = torch.ones(width, dtype=table.dtype)
    channels = len(result["ffn_gate.weight"])
    if "attn_q.weight" not in result:
        return result, (0, 0, channels)
    heads, key_heads = len(result["attn_q.weight"]) // head_size, len(result["attn_k.weight"]) // head_size
    for part, count in (("attn_q.weight", heads), ("attn_k.weight", key_heads)):
        result[part] = interleave(result[part], count)
    return result, (heads, key_heads, channels)


def interleave(weight: Tensor, heads: int) -> Tensor:
    """Rows from halves that are turned against each other, as transformers has them, to neighbours, as llama.cpp."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)


def llama3_factors(rope: Mapping[str, Any], size: int) -> Tensor:
    """What each rotary frequency is divided by, as Llama 3.1 stretches its context: long waves by all of `factor`.

    Source: transformers' rope type `llama3`.
    """
    wave = 2 * math.pi * float(rope["rope_theta"]) ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    short = ((float(rope["original_max_position_embeddings"]) / wave - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - short) / float(rope["factor"]) + short)).float()
