"""A decoder as OpenELM's configuration and tensors: what mlx-lm's openelm.py makes a model from.

Read at ml-explore/mlx-lm@269906b on 2026-11-30.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphprune.backends.layered.layers import (
    HEAD,
    NORM,
    TABLE,
    Decoder,
    Layer,
    has_bias,
    read_decoder,
    require_class,
    require_rotation,
)
from graphprune.backends.layered.writing import Form
from graphprune.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor

    from graphprune.ir.graph import Graph

CLASSES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM"})
_FORM = "openelm"
_REMEDY = "; for mlx cut with --uniform and convert the checkpoint, which its own llama opens, or take --for llama.cpp"


def check_source(graph: "Graph") -> dict[str, Any]:
    """The rotation of a source that OpenELM computes. Raises ExportError."""
    config = require_class(graph, CLASSES, _FORM)
    if any(getattr(config, name, False) for name in ("attention_bias", "mlp_bias")):
        raise ExportError(f"{_FORM} has no biases, and the model has some{_REMEDY}")
    return require_rotation(config, ("default",), _FORM, _REMEDY)


def make_form(graph: "Graph") -> Form:
    """config.json and the tensors. Raises ExportError."""
    rope, config = check_source(graph), graph.source.model_config
    decoder = read_decoder(graph, _FORM)
    if has_bias(decoder.layers, "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        raise ExportError(f"{_FORM} has no biases, and the model has some{_REMEDY}")
    normed = any("self_attn.q_norm.weight" in layer.tensors for layer in decoder.layers)
    layers = [fused(with_zeros(layer, decoder), normed) for layer in decoder.layers]
    data = {
        "architectures": ["OpenELMForCausalLM"],
        "model_type": "openelm",
        "head_dim": decoder.head_size,
        "num_transformer_layers": len(layers),
        "model_dim": decoder.width,
        "vocab_size": decoder.vocabulary,
        "ffn_dim_divisor": 1,
        "num_query_heads": [max(1, layer.heads) for layer in decoder.layers],
        "num_kv_heads": [max(1, layer.key_heads) for layer in decoder.layers],
        "ffn_multipliers": [max(1, layer.channels) / decoder.width for layer in decoder.layers],
        "ffn_with_glu": True,
        "normalize_qk_projections": normed,
        "share_input_output_layers": HEAD not in decoder.outside,
        "rms_norm_eps": float(config.rms_norm_eps),
        "rope_freq_constant": float(rope["rope_theta"]),
        "max_context_length": int(config.max_position_embeddings),
        **{name: getattr(config, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    }
    tensors = {f"transformer.layers.{at}.{name}": t for at, layer in enumerate(layers) for name, t in layer.items()}
    return Form(data, {**outside(decoder), **tensors})


def outside(decoder: Decoder) -> "dict[str, Tensor]":
    names = {TABLE: "transformer.token_embeddings.weight", NORM: "transformer.norm.weight", HEAD: HEAD}
    return {names[name]: tensor for name, tensor in decoder.outside.items()}


def fused(given: "Mapping[str, Tensor]", normed: bool) -> "dict[str, Tensor]":
    """The tensors of a layer under OpenELM's names, with one for queries, keys and values, and one for gate and up."""
    import torch

    made = {
        "attn.qkv_proj.weight": torch.cat([given[f"self_attn.{part}_proj.weight"] for part in "qkv"]),
        "attn.out_proj.weight": given["self_attn.o_proj.weight"],
        "attn_norm.weight": given["input_layernorm.weight"],
        "ffn.proj_1.weight": torch.cat([given[f"mlp.{part}_proj.weight"] for part in ("gate", "up")]),
        "ffn.proj_2.weight": given["mlp.down_proj.weight"],
        "ffn_norm.weight": given["post_attention_layernorm.weight"],
    }
    norms = {f"attn.{part}_norm.weight": given[f"self_attn.{part}_norm.weight"] for part in "qk"} if normed else {}
    return made | norms


def with_zeros(layer: Layer, decoder: Decoder) -> "Mapping[str, Tensor]":
    """The tensors of a layer, with one head or one channel of zeros in the place of what is absent."""
    width, size = decoder.width, decoder.head_size
    like = decoder.outside[TABLE]
    given = dict(layer.tensors)
    if not layer.heads:
        given |= {f"self_attn.{part}_proj.weight": like.new_zeros(size, width) for part in "qkv"}
        given |= {
            "self_attn.o_proj.weight": like.new_zeros(width, size),
            "input_layernorm.weight": like.new_ones(width),
        }
        if any("self_attn.q_norm.weight" in other.tensors for other in decoder.layers):
            given |= {f"self_attn.{part}_norm.weight": like.new_ones(size) for part in "qk"}
    if not layer.channels:
        given |= {f"mlp.{part}_proj.weight": like.new_zeros(1, width) for part in ("gate", "up")}
        given |= {"mlp.down_proj.weight": like.new_zeros(width, 1)}
        given |= {"post_attention_layernorm.weight": like.new_ones(width)}
    return given
