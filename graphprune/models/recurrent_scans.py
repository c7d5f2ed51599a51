"""Scans: recurrences that models write out as a loop over tokens, kept from overflow by a running maximum.

As `kernels` does: in a trace the forms here take the place of transformers' functions, with the loop as our operator.
They begin with an empty state and give none back: the models that have them keep their states where no cache is.
"""

from typing import Any

import torch
from torch import Tensor

from graphprune.ir.recurrence import linear_recurrence

_NOTHING = -1e38  # a logarithm of nothing, finite so that differences of two are numbers


def gated_scan(
    block: Any,
    hidden_states: Tensor,
    recurrent_gate: Tensor,
    reset: Tensor,
    recurrent_states: Tensor | None,
    acc_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, None]:
    """RG-LRU (Griffin): h = gate * h + x; everything is [batch, tokens, channels]. A new text resets the state."""
    gate = (recurrent_gate * ~reset).to(acc_dtype).clamp(min=torch.finfo(acc_dtype).tiny)
    x = hidden_states.to(acc_dtype).transpose(1, 2)[..., None]
    ones = torch.ones_like(x)
    outputs, _ = linear_recurrence(ones, ones, x, gate.log().transpose(1, 2)[..., None, None], empty_state(ones, x))
    return outputs[..., 0].transpose(1, 2).to(hidden_states.dtype), None


def weighted_keys(
    time_decay: Tensor, time_first: Tensor, key: Tensor, value: Tensor, state: Any = None, return_state: bool = False
) -> tuple[Tensor, None]:
    """RWKV-4: averages of the values so far, [batch, tokens, channels], weighted by exp(key) that decays.

    The token's own key counts with `time_first` added and without decay.
    """
    dtype, key, value = value.dtype, key.float(), value.float()
    decay = -torch.exp(time_decay.float())
    largest = running_maximum(key, decay.expand_as(key), 1)
    before = shifted(largest, 1, _NOTHING)
    weights = torch.exp(key - largest).transpose(1, 2)[..., None]
    rates = (shifted(largest, 1, 0.0) + decay - largest).clamp(max=0).transpose(1, 2)[..., None, None]
    ones = torch.ones_like(weights)
    values = value.transpose(1, 2)[..., None]
    sums, counts = (
        shifted(linear_recurrence(ones, weights, x, rates, empty_state(ones, x))[0][..., 0].transpose(1, 2), 1, 0.0)
        for x in (values, ones)
    )
    own = key + time_first
    top = torch.maximum(before, own)
    past, now = torch.exp(before - top), torch.exp(own - top)
    return ((past * sums + now * value) / (past * counts + now)).to(dtype), None


def matrix_memory(
    block: Any, query: Tensor, key: Tensor, value: Tensor, igate: Tensor, fgate: Tensor, **kwargs: Any
) -> tuple[Tensor, None]:
    """The mLSTM of xLSTM: tensors [batch, heads, tokens, size], the logarithms of both gates [batch, heads, tokens]."""
    forget = torch.nn.functional.logsigmoid(fgate.float())
    largest = running_maximum(igate.float(), forget, 2, 0.0)
    rates = (shifted(largest, 2, 0.0) + forget - largest)[..., None, None]
    scaled = key * torch.exp(igate - largest)[..., None]
    query = query * query.shape[-1] ** -0.5
    sums, counts = (
        linear_recurrence(query, scaled, x, rates, empty_state(scaled, x))[0]
        for x in (value, torch.ones_like(value[..., :1]))
    )
    least = torch.exp(-largest)[..., None]
    return sums / (torch.maximum(counts.abs(), least) + block.config.eps), None


def lightning_attention(
    block: Any,
    hidden_states: Tensor,
    position_embeddings: Any,
    attention_mask: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """MiniMax's linear attention: S = exp(-slope) * S + key value', computed by its model in blocks of a fixed size."""
    mixed = block.act_fn(block.qkv_proj(hidden_states))
    mixed = mixed if attention_mask is None else (mixed * attention_mask[:, :, None]).to(mixed.dtype)
    heads = mixed.reshape(*mixed.shape[:2], block.num_attention_heads, 3 * block.head_dim).transpose(1, 2)
    query, key, value = torch.split(heads, block.head_dim, dim=3)
    decay = (-block.slope_rate)[None, ..., None]
    outputs, _ = linear_recurrence(
        query, key, value, decay.expand(-1, -1, mixed.shape[1], -1, -1), empty_state(key, value)
    )
    joined = outputs.transpose(1, 2).reshape(*mixed.shape[:2], block.num_attention_heads * block.head_dim)
    gate = torch.sigmoid(block.output_gate(hidden_states))
    return block.out_proj(gate * block.norm(joined)), None


def running_maximum(entries: Tensor, decay: Tensor, dim: int, start: float | None = None) -> Tensor:
    """The largest of all entries so far along `dim`, each lowered by the decays since it came (both logarithms)."""
    fallen = decay.cumsum(dim)
    largest = torch.cummax(entries - fallen, dim).values
    return fallen + (largest if start is None else largest.clamp(min=start))


def shifted(x: Tensor, dim: int, first: float) -> Tensor:
    """One token later along `dim`, `first` standing in front."""
    ends = torch.ops.aten.slice.Tensor
    return torch.cat([torch.full_like(ends(x, dim, 0, 1), first), ends(x, dim, 0, -1)], dim)


def empty_state(key: Tensor, value: Tensor) -> Tensor:
    """Zeros [batch, heads, K, V], made of the operands so that their axes are those of the state."""
    return torch.zeros_like(key[:, :, 0, :, None] * value[:, :, 0, None])
