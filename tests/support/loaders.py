"""Other runtimes' classes in a few lines of torch: what they compute from a config.json and a safetensors file.

Written from what their constructors and forward passes do (see graphprune/runtimes/known.py for the places), with the
shapes worked out from the configuration alone, so that a file with other ones does not load.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = json.loads((folder / "config.json").read_text())
    return config, {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}


def take(tensors: dict[str, Tensor], name: str, *shape: int) -> Tensor:
    """The tensor of a name, which is then gone: a loader refuses another shape, and what nobody asked for."""
    tensor = tensors.pop(name)
    assert tuple(tensor.shape) == shape, f"{name} is {tuple(tensor.shape)}, asked for {shape}"
    return tensor


def norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight


def frequencies(size: int, base: float, scaling: Mapping[str, Any] | None) -> Tensor:
    """Rotations a token, by rope_theta and the older rope_scaling."""
    plain = base ** -(torch.arange(0, size, 2).float() / size)
    if not scaling:
        return plain
    if scaling["rope_type"] == "linear":
        return plain / scaling["factor"]
    wave, whole = 2 * torch.pi / plain, scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = ((whole / wave - low) / (high - low)).clamp(0, 1)
    return plain * (smooth + (1 - smooth) / scaling["factor"])


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Halves turned against each other: x [heads, tokens, size]."""
    angle = torch.arange(x.shape[1]).float()[:, None] * turns
    first, second = x.chunk(2, -1)
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, turns: Tensor) -> Tensor:
    """Causal attention of [heads, tokens, size] over groups of heads, as [tokens, heads * size]."""
    each = q.shape[0] // k.shape[0]
    q, k = rotate(q, turns), rotate(k, turns).repeat_interleave(each, 0)
    found = functional.scaled_dot_product_attention(q, k, v.repeat_interleave(each, 0), is_causal=True)
    return found.transpose(0, 1).flatten(1)


def split(x: Tensor, size: int) -> Tensor:
    return x.unflatten(-1, (-1, size)).transpose(0, 1)


def project(tensors: dict[str, Tensor], name: str, rows: int, columns: int, x: Tensor, bias: bool = False) -> Tensor:
    shift = take(tensors, f"{name}.bias", rows) if bias else None
    return functional.linear(x, take(tensors, f"{name}.weight", rows, columns), shift)


def decilm_logits(folder: Path, ids: Tensor, blocks: list[Any] | None = None) -> Tensor:
    """Logits [tokens, vocabulary] of DeciLMForCausalLM; `blocks` are the block_configs as objects, as they are read."""
    config, tensors = read(folder)
    width, size, heads = config["hidden_size"], config["head_dim"], config["num_attention_heads"]
    table = take(tensors, "model.embed_tokens.weight", config["vocab_size"], width)
    turns = frequencies(size, config["rope_theta"], config.get("rope_scaling"))
    x, started = table[ids], False
    three = config.get("qkv_bias", config["attention_bias"])
    for at, block in enumerate(blocks or config["block_configs"]):
        start = f"model.layers.{at}"
        attention, mlp = (vars(getattr(block, part)) if blocks else block[part] for part in ("attention", "ffn"))
        if not attention["no_op"]:
            started = True
            keys = heads // attention["n_heads_in_group"]
            h = norm(x, take(tensors, f"{start}.input_layernorm.weight", width), config["rms_norm_eps"])
            rows = (("q", heads), ("k", keys), ("v", keys))
            parts = [project(tensors, f"{start}.self_attn.{p}_proj", n * size, width, h, three) for p, n in rows]
            h = attend(*(split(part, size) for part in parts), turns)
            x = x + project(tensors, f"{start}.self_attn.o_proj", width, heads * size, h, config["attention_bias"])
        if not mlp["no_op"]:
            assert started, "the norm before an MLP asks for a residual sum"
            n = mlp.get("intermediate_size")
            n = -(-int(2 * mlp["ffn_mult"] * width / 3) // 256) * 256 if "ffn_mult" in mlp else n
            h = norm(x, take(tensors, f"{start}.post_attention_layernorm.weight", width), config["rms_norm_eps"])
            gate, up = (project(tensors, f"{start}.mlp.{p}_proj", n, width, h) for p in ("gate", "up"))
            x = x + project(tensors, f"{start}.mlp.down_proj", width, n, functional.silu(gate) * up)
    return head(config["tie_word_embeddings"], tensors, table, x, "model.norm.weight", config["rms_norm_eps"])


def openelm_logits(folder: Path, ids: Tensor) -> Tensor:
    """Logits [tokens, vocabulary] of mlx-lm's openelm."""
    config, tensors = read(folder)
    width, size, epsilon = config["model_dim"], config["head_dim"], config["rms_norm_eps"]
    table = take(tensors, "transformer.token_embeddings.weight", config["vocab_size"], width)
    turns = frequencies(size, config["rope_freq_constant"], None)
    x = table[ids]
    for at in range(config["num_transformer_layers"]):
        start = f"transformer.layers.{at}"
        heads, keys = config["num_query_heads"][at], config["num_kv_heads"][at]
        h = norm(x, take(tensors, f"{start}.attn_norm.weight", width), epsilon)
        h = project(tensors, f"{start}.attn.qkv_proj", (heads + 2 * keys) * size, width, h)
        q, k, v = split(h, size).split([heads, keys, keys])
        if config["normalize_qk_projections"]:
            q, k = (
                norm(p, take(tensors, f"{start}.attn.{n}_norm.weight", size), epsilon) for p, n in ((q, "q"), (k, "k"))
            )
        x = x + project(tensors, f"{start}.attn.out_proj", width, heads * size, attend(q, k, v, turns))
        divisor = config["ffn_dim_divisor"]
        n = max(divisor, int(config["ffn_multipliers"][at] * width + divisor / 2) // divisor * divisor)
        h = norm(x, take(tensors, f"{start}.ffn_norm.weight", width), epsilon)
        gate, up = project(tensors, f"{start}.ffn.proj_1", 2 * n, width, h).chunk(2, -1)
        x = x + project(tensors, f"{start}.ffn.proj_2", width, n, functional.silu(gate) * up)
    return head(config["share_input_output_layers"], tensors, table, x, "transformer.norm.weight", epsilon)


def head(tied: bool, tensors: dict[str, Tensor], table: Tensor, x: Tensor, last: str, epsilon: float) -> Tensor:
    x = norm(x, take(tensors, last, table.shape[1]), epsilon)
    weight = table if tied else take(tensors, "lm_head.weight", *table.shape)
    assert not tensors, f"nobody asked for {sorted(tensors)}"
    return cast(Tensor, x @ weight.T)
