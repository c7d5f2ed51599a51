"""A decoder as DeciLM's configuration and tensors: what vLLM's nemotron_nas.py, and SGLang's, make a model from.

Read at vllm-project/vllm@00bd149, sgl-project/sglang@15a024d and turboderp-org/exllamav3@d990611 on 2026-11-30.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphprune.backends.layered.layers import (
    HEAD,
    ROTATIONS,
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
    from transformers import PretrainedConfig

    from graphprune.ir.graph import Graph

CODE = Path(__file__).with_name("configuration_decilm.py")
CLASSES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"})
_FORM = "decilm"
_PLAIN = ("max_position_embeddings", "rms_norm_eps", "bos_token_id", "eos_token_id", "pad_token_id")


def check_source(graph: "Graph", multiple: int) -> dict[str, Any]:
    """The rotation of a source that DeciLM computes, with the multiple of channels asked for. Raises ExportError."""
    config = require_class(graph, CLASSES, _FORM)
    biased = graph.source.architecture == "Qwen2ForCausalLM" or getattr(config, "mlp_bias", False)
    if multiple > 1 and biased:
        raise ExportError("decilm{multiple=256} is for SGLang too, which has no bias on queries alone, nor on MLPs")
    return require_rotation(config, ROTATIONS, _FORM, "; for others write gguf or onnx")


def make_form(graph: "Graph", multiple: int) -> Form:
    """config.json and the tensors. Raises ExportError with the layer that block_configs cannot say."""
    rope = check_source(graph, multiple)
    decoder = read_decoder(graph, _FORM)
    config = graph.source.model_config
    heads = one_head_count(decoder)
    blocks = [block_of(layer, heads, decoder.width, multiple, at) for at, layer in enumerate(decoder.layers)]
    require_start(decoder)
    data = {
        **plain_fields(config),
        **bias_fields(decoder),
        "architectures": ["DeciLMForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_decilm.DeciLMConfig"},
        "model_type": "nemotron-nas",
        "hidden_act": "silu",
        "hidden_size": decoder.width,
        "vocab_size": decoder.vocabulary,
        "head_dim": decoder.head_size,
        "num_attention_heads": heads,
        "num_key_value_heads": next(layer.key_heads for layer in decoder.layers if layer.heads),
        "intermediate_size": max(layer.channels for layer in decoder.layers),
        "num_hidden_layers": len(blocks),
        "tie_word_embeddings": HEAD not in decoder.outside,
        "rope_theta": float(rope["rope_theta"]),
        "rope_scaling": None if rope["rope_type"] == "default" else scaling_of(rope),
        "block_configs": blocks,
    }
    layers = {f"model.layers.{i}.{n}": t for i, layer in enumerate(decoder.layers) for n, t in layer.tensors.items()}
    return Form(data, {**decoder.outside, **layers})


def one_head_count(decoder: Decoder) -> int:
    """The query heads of every layer that has attention. Raises ExportError where they differ."""
    counts = {layer.heads for layer in decoder.layers if layer.heads}
    if len(counts) > 1:
        raise ExportError(
            f"decilm has one number of query heads for all layers, and here are {min(counts)} to {max(counts)}; cut "
            "with --for vllm, or write gguf, openelm or onnx"
        )
    return counts.pop()


def block_of(layer: Layer, heads: int, width: int, multiple: int, place: int) -> dict[str, Any]:
    """The block_config of a layer. Raises ExportError where its channels are no multiple."""
    if layer.channels % multiple:
        raise ExportError(
            f"layer {place} has {layer.channels} channels, no multiple of {multiple}; cut with --for sglang, or write "
            "decilm{multiple=1} for vLLM alone"
        )
    attention: dict[str, Any] = {"no_op": not layer.heads}
    if layer.heads:
        attention["n_heads_in_group"] = heads // layer.key_heads
    mlp: dict[str, Any] = {"no_op": not layer.channels}
    if layer.channels and multiple > 1:
        mlp["ffn_mult"] = 1.5 * layer.channels / width  # read as ceil256(int(2 ffn_mult width / 3))
    elif layer.channels:
        mlp["intermediate_size"] = layer.channels
    return {"attention": attention, "ffn": mlp}


def require_start(decoder: Decoder) -> None:
    """Raise ExportError where the residual sum would begin at an MLP, which the loader's norm cannot do."""
    first = next((layer for layer in decoder.layers if layer.heads or layer.channels), None)
    if first is not None and not first.heads:
        raise ExportError("decilm needs attention in the first layer that is left; cut with --for vllm")


def scaling_of(rope: dict[str, Any]) -> dict[str, Any]:
    """The scaling as it was said before transformers 5, which SGLang reads."""
    return {name: value for name, value in rope.items() if name not in ("rope_theta", "partial_rotary_factor")}


def bias_fields(decoder: Decoder) -> dict[str, Any]:
    """Which projections have biases: vLLM takes attention_bias for all four, qkv_bias for three."""
    three, last = has_bias(decoder.layers, "q_proj", "k_proj", "v_proj"), has_bias(decoder.layers, "o_proj")
    fields: dict[str, Any] = {"attention_bias": last, "mlp_bias": has_bias(decoder.layers, "gate_proj", "down_proj")}
    return fields | ({"qkv_bias": three} if three != last else {})


def plain_fields(config: "PretrainedConfig") -> dict[str, Any]:
    """What is said as the source says it."""
    return {name: getattr(config, name, None) for name in _PLAIN}
