"""Llamas with random weights, what they multiply, and rows of random tokens."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """The widths of a Llama."""

    name: str
    hidden: int
    mlp: int
    layers: int
    heads: int
    kv: int
    vocabulary: int
    tied: bool = False

    def config(self) -> Any:
        return transformers.LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv,
            head_dim=self.hidden // self.heads,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
            max_position_embeddings=8192,
            bos_token_id=0,
            eos_token_id=0,
        )

    def flops_per_token(self, parameters: int, length: int) -> float:
        """Of a forward and backward: 6 x what multiplies + 12 x layers x width x length (arXiv 2204.02311, B)."""
        looked_up = (
            0 if self.tied else self.hidden * self.vocabulary
        )  # the embedding only looks up, unless it is the head
        return 6.0 * (parameters - looked_up) + 12.0 * self.layers * self.hidden * length


TINY = Shape("tiny", 32, 64, 2, 4, 2, 256)
SMALL = Shape("125M", 768, 2048, 12, 12, 4, 32000)
LARGE = Shape("1.2B", 2048, 8192, 16, 32, 8, 128256, tied=True)  # that of Llama-3.2-1B
WHOLE = Shape("3B", 3072, 8192, 28, 24, 8, 128256, tied=True)  # that of Llama-3.2-3B


def make_model(shape: Shape, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """Transformers' own class with random weights, drawn on the device: a processor takes minutes for billions."""
    torch.manual_seed(0)
    old = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return transformers.LlamaForCausalLM(shape.config()).eval()
    finally:
        torch.set_default_dtype(old)


def nothing(start: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class RandomRows:
    """Rows of random tokens, the same for the same place; `told` hears of each place that is asked for."""

    length: int
    vocabulary: int
    told: Callable[[int], None] = field(default=nothing, compare=False)
    tokens_per_epoch: int = 1 << 40
    rows_per_epoch: int = 1 << 30
    fingerprint: str = "random"

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        self.told(start)
        generator = torch.Generator().manual_seed(start)
        ids = torch.randint(self.vocabulary, (count, self.length), generator=generator)
        return ids, ids
