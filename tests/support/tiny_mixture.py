"""Tiny mixtures of experts, and folders of them: random weights, large enough that every expert tells."""

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.support.tiny_source import write_source

SIZES = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MORE = {"num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0}
BASE: dict[str, Any] = {**SIZES, **MORE, "intermediate_size": 48}


def mixture_config(name: str = "mixtral") -> Any:
    """A configuration by the name of its family; each picks among experts in its own way."""
    if name == "mixtral":
        return transformers.MixtralConfig(**BASE, num_local_experts=6, num_experts_per_tok=2)
    if name == "qwen3":
        experts = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "head_dim": 8}
        return transformers.Qwen3MoeConfig(**BASE, **experts)
    if name == "deepseek":
        experts = {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
        ranks = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
        more = {"moe_intermediate_size": 24, "first_k_dense_replace": 1, "n_shared_experts": 1}
        return transformers.DeepseekV3Config(**{**BASE, "num_key_value_heads": 4}, **experts, **ranks, **more)
    assert name == "gpt-oss"
    rope = {"rope_type": "default", "rope_theta": 1e4}
    return transformers.GptOssConfig(
        **BASE, num_local_experts=6, num_experts_per_tok=2, head_dim=8, rope_parameters=rope
    )


def mixture(name: str = "mixtral", dtype: torch.dtype = torch.float32) -> Any:
    """A model of this family."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(mixture_config(name), dtype=dtype).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def write_mixture(folder: Path, name: str = "mixtral", dtype: torch.dtype = torch.float32) -> Path:
    """A folder with a mixture and a tokenizer."""
    write_source(folder)
    mixture(name, dtype).save_pretrained(folder)
    return folder


def load_resident(folder: Path) -> Any:
    """The model of a folder as transformers loads it, all of it in memory."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
