"""Small configurations of every architecture: the default, shrunk by the names of its fields, and a table of help."""

import copy
from typing import Any

from conformance_suites import entries
from conformance_vision import MORE

# Fields by meaning, and what they become. A field that a configuration does not have is passed over.
SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size", "width", "emb_dim"), 64),
    **dict.fromkeys(("word_embed_proj_dim", "lru_width", "attention_hidden_size", "embedding_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim"), 96),
    **dict.fromkeys(
        ("dff", "dim_ff", "d_inner", "ffn_hidden_size", "intermediate_size_mlp", "dense_intermediate_size"), 96
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_decoder_attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers", "num_blocks"), 2),
    **dict.fromkeys(
        ("head_dim", "attention_head_dim", "kv_channels", "v_head_dim", "global_head_dim", "dim_head", "d_kv"), 16
    ),
    **dict.fromkeys(("swa_head_dim", "swa_v_head_dim", "attention_head_size"), 16),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 128),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 48),
    **dict.fromkeys(("shared_intermediate_size", "expert_intermediate_size"), 48),
    **dict.fromkeys(("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "o_lora_rank"), 16),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "n_shared_experts", "num_shared_experts"), 1),
    "q_lora_rank": 24,
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 32),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("mamba_d_ssm",), 128),
    **dict.fromkeys(
        ("chunk_size", "mamba_chunk_size", "sliding_window", "attention_window_size", "local_window_size"), 16
    ),
    **dict.fromkeys(("attention_chunk_size", "window_size", "index_topk"), 16),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    # Scores of an indexer are 0 where no head fires; many heads, so that no two of them are equal and which one is
    # among the best does not depend on the runtime.
    "index_n_heads": 32,
    "index_head_dim": 24,
    **dict.fromkeys(("linear_num_value_heads", "linear_num_heads", "num_linear_heads"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 16),
    **dict.fromkeys(("rotary_dim", "time_step_rank", "mamba_dt_rank", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("adapter_dim", "adapter_rank", "dt_rank"), 8),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    **dict.fromkeys(("image_size",), 32),
    **dict.fromkeys(("patch_size",), 16),
    **dict.fromkeys(("pad_token_id",), 0),
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), 1),
    **dict.fromkeys(("eos_token_id", "sep_token_id"), 2),
}
KEY_HEADS = (
    "num_key_value_heads",
    "num_kv_heads",
    "swa_num_key_value_heads",
    "num_global_key_value_heads",
    "n_head_kv",
)
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
# Sizes that some defaults leave out, though the model needs them.
OPTIONAL = ("num_experts_per_tok", "n_routed_experts", "n_shared_experts", "first_k_dense_replace", "head_dim")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_GEMMA3N = {
    "num_kv_shared_layers": 0,
    "intermediate_size": 96,
    "activation_sparsity_pattern": [0.95, 0.0, 0.95, 0.0],
}
# Where the names are not enough.
HELP: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3], "num_hidden_layers": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_hidden_layers": 4, "mamba_dt_rank": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"], "num_hidden_layers": 4},
    "zamba": {"attention_hidden_size": 128, "attention_head_dim": 32, "attn_layer_period": 2, "attn_layer_offset": 1}
    | {"num_hidden_layers": 4, "n_mamba_heads": 2, "mamba_dt_rank": 8},
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "num_hidden_layers": 4, "n_mamba_heads": 4}
    | {"attention_head_dim": 32, "attention_hidden_size": 128},
    "shieldgemma2": {"yes_token_index": 5, "no_token_index": 6},
    "xlm": {"causal": True},  # by default a masked model: no cache could know what comes after
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "gemma3n_text": _GEMMA3N,
    "gemma3n": {"text_config": _GEMMA3N},
    **{
        name: {
            "backbone_hidden_size": 64,
            "text_config": {
                **dict.fromkeys(("hidden_size_per_layer_input", "vocab_size_per_layer_input"), 0),
                **dict.fromkeys(("use_double_wide_mlp", "enable_moe_block"), False),
                "num_hidden_layers": 4,
                "num_kv_shared_layers": shared,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
        }
        for name, shared in (("gemma4_assistant", 0), ("gemma4_unified_assistant", 2))
    },
    "dots3_note": {
        "shared_experts_intermediate_size": 48,
        "per_layer_config": {
            layer: {
                "head_dim": 32,
                "kv_lora_rank": 16,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "q_lora_rank": 16,
                "qk_nope_head_dim": 16,
                "qk_rope_head_dim": 16,
                "v_head_dim": 16,
            }
            for layer in (2, 3)
        },
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "esm": {"vocab_size": 128, "pad_token_id": 1, "mask_token_id": 3},
    "longcat_flash": {"zero_expert_num": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "num_hidden_layers": 4},
    "mamba2": {"head_dim": 32},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "reformer": {"axial_pos_embds_dim": (16, 48), "axial_pos_shape": (8, 16)},
    "xmod": {"languages": ["en_XX", "de_DE"], "default_language": "en_XX"},
    "xlstm": {
        "hidden_size": 128,
        "embedding_dim": 128,
    },  # keys are rounded up to 64 in its cache, and not in its layers
    "zaya": {"num_experts_per_tok": 1},
}


def small_config(model_type: str, class_name: str) -> Any:
    """A configuration of this class of models, with which it has at most a few million parameters."""
    import transformers

    cls = getattr(transformers, class_name).config_class or transformers.CONFIG_MAPPING[model_type]
    table = {**MORE, **HELP}
    help = table.get(class_name) or table.get(model_type, {})
    return rebuild(cls, copy.deepcopy(help), class_name in entries("causal").values())


def rebuild(cls: Any, changes: dict[str, Any], decoder: bool = True) -> Any:
    """The default configuration of a class, shrunk and made anew, so that what follows from sizes follows again."""
    default = default_config(cls, changes)
    fields = shrunk(default, decoder)
    nested = {
        name: rebuild(type(value), changes.pop(name, {}), decoder).to_dict()
        for name, value in vars(default).items()
        if (name.endswith("_config") or name in ("encoder", "decoder"))
        and hasattr(value, "to_dict")
        and hasattr(value, "model_type")
    }
    return cls(**{**fields, **nested, **changes})


def default_config(cls: Any, changes: dict[str, Any]) -> Any:
    """The default, or the default with these changes where it is not valid by itself."""
    try:
        return cls()
    except Exception:  # whatever its validators raise
        return cls(**copy.deepcopy(changes))


def shrunk(default: Any, decoder: bool) -> dict[str, Any]:
    """The fields that become smaller, by their names in the class."""
    names = {getattr(default, "attribute_map", {}).get(name, name) for name in SIZES} | set(KEY_HEADS)
    present = vars(default)
    fields = {name: SIZES[name] for name in SIZES if isinstance(present.get(name), int) and name in names}
    fields = {name: value for name, value in fields.items() if not isinstance(present[name], bool)}
    fields |= {name: SIZES[name] for name in OPTIONAL if name in present and present[name] is None}
    if isinstance(present.get("eos_token_id"), (list, tuple)):
        fields["eos_token_id"] = SIZES["eos_token_id"]
    heads = next((present[name] for name in HEADS if isinstance(present.get(name), int)), 0)
    for name in KEY_HEADS:
        if isinstance(present.get(name), int):
            fields[name] = 1 if present[name] == 1 else 2 if present[name] < heads else 4
    causal = {"is_decoder": True} if decoder and present.get("is_decoder") is False else {}  # BERT and the like
    return fields | causal | layer_fields(default)


def layer_fields(default: Any) -> dict[str, Any]:
    """Two layers of each type where layers have types, and every list with an entry a layer cut to them."""
    present = vars(default)
    name = next((name for name in LAYERS if isinstance(present.get(name), int)), None)
    if name is None:
        return {}
    count, types = present[name], next((v for v in map(present.get, TYPED) if isinstance(v, list) and v), None)
    kept = list(range(2)) if types is None or not all(isinstance(t, str) for t in types) else first_two(types)
    fields: dict[str, Any] = {name: len(kept)}
    for key, value in present.items():
        if isinstance(value, list) and len(value) == count and count > 2:
            fields[key] = [copy.deepcopy(value[index]) for index in kept]
    return fields


TYPED = ("layer_types", "layers_block_type", "block_types", "attention_types", "mlp_layer_types")


def first_two(types: list[Any]) -> list[int]:
    """The places of the first two layers of each type."""
    return sorted(index for kind in dict.fromkeys(types) for index in [i for i, t in enumerate(types) if t == kind][:2])
