"""A tiny captured Llama with grouped-query attention, its groups written out by hand."""

import functools
from typing import Any

import numpy
import torch
import transformers

from graphprune.analysis.cost import Costs, Polynomial
from graphprune.analysis.groups import Group, Groups, Kind, Slot
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph

CONFIG = transformers.LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=4,
    max_position_embeddings=48,
    tie_word_embeddings=True,
)


@functools.cache
def tiny_graph() -> Graph:
    """The model captured once a process, with random weights, norms included."""
    torch.manual_seed(0)
    model: Any = transformers.LlamaForCausalLM(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return capture(model)


def group(id: str, kind: Kind, units: int, slots: dict[tuple[str, int], int]) -> Group:
    """A group whose units own `width` consecutive indices of each (parameter, dimension)."""
    owned = tuple(Slot(n, d, numpy.repeat(numpy.arange(units), width)) for (n, d), width in slots.items())
    return Group(id, units, owned, (), kind, id.rpartition(".")[0], None, False, None)


def llama_groups(config: Any, parameters: int) -> Groups:
    """MLP channels and key-value heads of every layer, with the polynomial of the parameter count."""
    hidden, size, kv = config.hidden_size, config.head_dim, config.num_key_value_heads
    repeat = config.num_attention_heads // kv
    groups: list[Group] = []
    terms: dict[tuple[str, ...], int] = {}
    whole = 0
    for layer in range(config.num_hidden_layers):
        at, mlp = f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."
        heads = {(at + "q_proj.weight", 0): repeat * size, (at + "k_proj.weight", 0): size}
        heads |= {(at + "v_proj.weight", 0): size, (at + "o_proj.weight", 1): repeat * size}
        channels = {(mlp + "gate_proj.weight", 0): 1, (mlp + "up_proj.weight", 0): 1, (mlp + "down_proj.weight", 1): 1}
        groups += [group(at + "heads", "attention", kv, heads)]
        groups += [group(mlp + "channels", "mlp", config.intermediate_size, channels)]
        terms |= {(at + "heads",): hidden * size * (2 * repeat + 2), (mlp + "channels",): 3 * hidden}
        whole += terms[(at + "heads",)] * kv + terms[(mlp + "channels",)] * config.intermediate_size
    count = Polynomial({(): parameters - whole, **terms})
    nothing = Polynomial({})
    return Groups(tuple(groups), (), Costs(count, nothing, nothing, nothing))


def tiny_groups() -> Groups:
    return llama_groups(CONFIG, tiny_graph().parameter_count())


def ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(CONFIG.vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))
