"""Tiny random models of every supported family, built from configurations alone."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

SMALL = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GQA = {**SMALL, "num_key_value_heads": 2, "intermediate_size": 44, "max_position_embeddings": 64}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def llama(**options: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**GQA, **TOKENS, **options}))


def mistral() -> Any:
    return transformers.MistralForCausalLM(transformers.MistralConfig(**GQA, **TOKENS, head_dim=8, sliding_window=None))


def qwen2() -> Any:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**GQA, **TOKENS))


def qwen3() -> Any:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**GQA, **TOKENS, head_dim=12))


def gemma2() -> Any:
    config = transformers.Gemma2Config(**GQA, **TOKENS, head_dim=8, sliding_window=16, query_pre_attn_scalar=8)
    return transformers.Gemma2ForCausalLM(config)


def gemma3() -> Any:
    config = transformers.Gemma3TextConfig(**GQA, **TOKENS, head_dim=8, sliding_window=16, query_pre_attn_scalar=8)
    return transformers.Gemma3ForCausalLM(config)


def phi3() -> Any:
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(**GQA, **TOKENS))


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config)


def gpt_neox() -> Any:
    config = transformers.GPTNeoXConfig(**SMALL, intermediate_size=44, max_position_embeddings=64, **TOKENS)
    return transformers.GPTNeoXForCausalLM(config)


def opt() -> Any:
    config = transformers.OPTConfig(**SMALL, ffn_dim=44, max_position_embeddings=64, word_embed_proj_dim=32, **TOKENS)
    return transformers.OPTForCausalLM(config)


def bloom() -> Any:
    config = transformers.BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4, **TOKENS)
    return transformers.BloomForCausalLM(config)


def falcon() -> Any:
    config = transformers.FalconConfig(**SMALL, alibi=False, multi_query=True, parallel_attn=True, bias=False, **TOKENS)
    return transformers.FalconForCausalLM(config)


def mixtral() -> Any:
    config = transformers.MixtralConfig(
        **GQA, **TOKENS, num_local_experts=4, num_experts_per_tok=2, sliding_window=None
    )
    return transformers.MixtralForCausalLM(config)


def mamba() -> Any:
    config = transformers.MambaConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, state_size=6, time_step_rank=5, expand=1, **TOKENS
    )
    return transformers.MambaForCausalLM(config)


def qwen3_next() -> Any:
    """A gated delta rule and attention in turn, with a mixture of experts in the second layer."""
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_conv_kernel_dim": 3}
    sizes = {"linear_key_head_dim": 8, "linear_value_head_dim": 6, "head_dim": 8, "shared_expert_intermediate_size": 20}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "mlp_only_layers": [0]}
    layers = {"layer_types": ["linear_attention", "full_attention"]}
    return transformers.Qwen3NextForCausalLM(
        transformers.Qwen3NextConfig(**{**GQA, **TOKENS, **linear, **sizes, **experts, **layers})
    )


def falcon_h1() -> Any:
    """Mamba-2 and attention side by side in every layer."""
    mamba = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 6, "mamba_n_groups": 1}
    config = transformers.FalconH1Config(**GQA, **TOKENS, **mamba, mamba_chunk_size=4, head_dim=8)
    return transformers.FalconH1ForCausalLM(config)


def bert() -> Any:
    config = transformers.BertConfig(**SMALL, intermediate_size=44, max_position_embeddings=64)
    return transformers.BertForMaskedLM(config)


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=44, image_size=16, patch_size=4
    )
    return transformers.ViTForImageClassification(config)


def clip() -> Any:
    text = {**SMALL, "intermediate_size": 44, "max_position_embeddings": 64, "eos_token_id": 60, "bos_token_id": 0}
    vision = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 36,
        "image_size": 16,
        "patch_size": 4,
    }
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20))


def t5() -> Any:
    """Two stacks, with positions that are added for each head."""
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 44, "num_layers": 2, "num_heads": 4}
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=61, **sizes, decoder_start_token_id=0, pad_token_id=0)
    )


def bart() -> Any:
    sides = ("encoder", "decoder")
    sizes = {f"{side}_{what}": n for side in sides for what, n in (("layers", 2), ("ffn_dim", 44))}
    heads = {f"{side}_attention_heads": 4 for side in sides}
    config = transformers.BartConfig(vocab_size=61, d_model=32, max_position_embeddings=64, **sizes, **heads)
    return transformers.BartForConditionalGeneration(config)


class ResidualCnn(nn.Module):
    """Batch norm, a residual sum, a concatenation and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(8), nn.BatchNorm2d(12)
        self.inner, self.outer = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.Conv2d(12, 8, 1)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.head = nn.Linear(20, 5)

    def forward(self, image: Tensor) -> Tensor:
        stem = torch.relu(self.norm1(self.stem(image)))
        x = stem + self.outer(torch.relu(self.norm2(self.inner(stem))))
        y = torch.relu(self.depthwise(self.grouped(x)))
        return self.head(torch.cat([x, y], dim=1).mean(dim=(2, 3)))  # type: ignore[no-any-return]


DECODERS: dict[str, Callable[[], Any]] = {
    f.__name__: f
    for f in (
        llama,
        mistral,
        qwen2,
        qwen3,
        gemma2,
        gemma3,
        phi3,
        gpt2,
        gpt_neox,
        opt,
        bloom,
        falcon,
        mixtral,
        mamba,
        qwen3_next,
        falcon_h1,
    )
}
ENCODERS: dict[str, Callable[[], Any]] = {f.__name__: f for f in (bert, vit, clip)}
FAMILIES: dict[str, Callable[[], Any]] = {**DECODERS, **ENCODERS, "cnn": ResidualCnn}

PAIRS: dict[str, Callable[[], Any]] = {f.__name__: f for f in (t5, bart)}  # an encoder and a decoder


def build(name: str, seed: int = 0) -> Any:
    """Build a family's model with fixed random weights, every bias and norm away from its neutral value."""
    torch.manual_seed(seed)
    model = (FAMILIES | PAIRS)[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model
