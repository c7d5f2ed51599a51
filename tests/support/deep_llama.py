"""A Llama of four tiny layers, and the same as a graph: enough of them for runs of layers."""

import functools
from typing import Any

import torch
import transformers

from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph

IDS = torch.randint(3, 30, (6, 7), generator=torch.Generator().manual_seed(2))


@functools.cache
def deep_llama() -> Any:
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    network = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


@functools.cache
def deep_graph() -> Graph:
    return capture(deep_llama())
