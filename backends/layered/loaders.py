"""What loaders ask for: the names and shapes of the tensors that their classes make from a configuration.

Written from the constructors of vLLM's nemotron_nas.py, SGLang's, exllamav3's decilm.py and mlx-lm's openelm.py, under
the names that a checkpoint has there; where a loader fuses tensors as it reads, those before.
"""

from collections.abc import Mapping
from typing import Any

Shapes = dict[str, tuple[int, ...]]
_STEP = 256


def tensors_asked_for(config: Mapping[str, Any]) -> Shapes:
    """The tensors that the class of a config.json is made of."""
    return openelm_tensors(config) if config["model_type"] == "openelm" else decilm_tensors(config)


def channels_of(block: Mapping[str, Any], width: int) -> int:
    """The channels of a block's MLP: as said, or by ffn_mult, in steps of 256."""
    if "ffn_mult" not in block:
        return int(block["intermediate_size"])
    return -(-int(2 * block["ffn_mult"] * width / 3) // _STEP) * _STEP


def decilm_tensors(config: Mapping[str, Any]) -> Shapes:
    width, size, heads = config["hidden_size"], config["head_dim"], config["num_attention_heads"]
    table = (config["vocab_size"], width)
    found: Shapes = {"model.embed_tokens.weight": table, "model.norm.weight": (width,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = table
    for index, block in enumerate(config["block_configs"]):
        start = f"model.layers.{index}"
        if not block["attention"]["no_op"]:
            keys = heads // block["attention"]["n_heads_in_group"]
            rows = {"q_proj": heads * size, "k_proj": keys * size, "v_proj": keys * size, "o_proj": width}
            shapes = {part: (count, heads * size if part == "o_proj" else width) for part, count in rows.items()}
            found[f"{start}.input_layernorm.weight"] = (width,)
            found |= linear(f"{start}.self_attn", shapes, biased_attention(config))
        if not block["ffn"]["no_op"]:
            count = channels_of(block["ffn"], width)
            shapes = {"gate_proj": (count, width), "up_proj": (count, width), "down_proj": (width, count)}
            found[f"{start}.post_attention_layernorm.weight"] = (width,)
            found |= linear(f"{start}.mlp", shapes, tuple(shapes) if config.get("mlp_bias") else ())
    return found


def biased_attention(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The projections of attention with a bias: all by attention_bias, those before it as qkv_bias says instead."""
    all_biased = bool(config.get("attention_bias"))
    three = ("q_proj", "k_proj", "v_proj") if config.get("qkv_bias", all_biased) else ()
    return (*three, *(("o_proj",) if all_biased else ()))


def linear(start: str, shapes: Mapping[str, tuple[int, int]], biased: tuple[str, ...]) -> Shapes:
    found: Shapes = {f"{start}.{part}.weight": shape for part, shape in shapes.items()}
    return found | {f"{start}.{part}.bias": shapes[part][:1] for part in biased}


def openelm_tensors(config: Mapping[str, Any]) -> Shapes:
    width, size = config["model_dim"], config["head_dim"]
    table = (config["vocab_size"], width)
    found: Shapes = {"transformer.token_embeddings.weight": table, "transformer.norm.weight": (width,)}
    if not config["share_input_output_layers"]:
        found["lm_head.weight"] = table
    for index in range(config["num_transformer_layers"]):
        start = f"transformer.layers.{index}"
        heads, keys = config["num_query_heads"][index], config["num_kv_heads"][index]
        count = divisible(config["ffn_multipliers"][index] * width, config["ffn_dim_divisor"])
        found |= {
            f"{start}.attn.qkv_proj.weight": ((heads + 2 * keys) * size, width),
            f"{start}.attn.out_proj.weight": (width, heads * size),
            f"{start}.ffn.proj_1.weight": (2 * count, width),
            f"{start}.ffn.proj_2.weight": (width, count),
            f"{start}.attn_norm.weight": (width,),
            f"{start}.ffn_norm.weight": (width,),
        }
        if config["normalize_qk_projections"]:
            found |= {f"{start}.attn.{part}_norm.weight": (size,) for part in "qk"}
    return found


def divisible(value: float, divisor: int) -> int:
    """The multiple of a divisor that is nearest, at least one, and not a tenth below."""
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest
