"""Kernels: the recurrent layers of transformers with their loops over tokens as one call of our operator.

transformers gives the loops of linear attention a function each, so that fused kernels can take their place. In a trace
the forms here take it: the same arithmetic, with the loop as `linear_recurrence`.
"""

import contextlib
import inspect
import sys
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.ir.recurrence import linear_recurrence
from graphprune.models import recurrent_scans

Kernel = Callable[..., Any]


@final
class Recurrent:
    """The recurrent state that a layer has asked its cache for: Mamba's scan continues from it without being told."""

    def __init__(self) -> None:
        self.state: Tensor | None = None
        self.taken = 0

    def give(self, state: Tensor | None) -> Tensor | None:
        self.state, self.taken = state, 0
        return state

    def take(self) -> Tensor:
        """The state of the next scan, [batch, channels, states]; layers with heads scan one after the other."""
        assert self.state is not None, "a scan ran before its layer read the cache"
        self.taken += 1
        return self.state if self.state.ndim == 3 else self.state[:, self.taken - 1]


def delta_rule(original: Kernel, recurrent: Recurrent) -> Kernel:
    """Gated DeltaNet and Kimi Delta Attention: tensors are [batch, tokens, heads, size], `g` is the log of the decay,
    a number for each head or one for each of its key channels."""
    normalise = inspect.unwrap(original).__globals__["l2norm"]

    def run(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        g: Tensor,
        beta: Tensor,
        initial_state: Tensor,
        use_qk_l2norm_in_kernel: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        groups = value.shape[2] // key.shape[2]
        if groups != 1:
            query, key = (x.repeat_interleave(groups, dim=2) for x in (query, key))
        dtype = query.dtype
        query, key, value, decay, beta = (x.transpose(1, 2).to(torch.float32) for x in (query, key, value, g, beta))
        if use_qk_l2norm_in_kernel:
            query, key = (normalise(x, dim=-1, eps=1e-6) for x in (query, key))
        query = query * query.shape[-1] ** -0.5
        decay = decay[..., None] if decay.ndim == 4 else decay[..., None, None]
        outputs, state = linear_recurrence(query, key, value, decay, initial_state.to(torch.float32), beta)
        return outputs.transpose(1, 2).to(dtype), state

    return run


def state_space_duality(original: Kernel, recurrent: Recurrent) -> Kernel:
    """Mamba-2: values [batch, tokens, heads, size], `B` and `C` [batch, tokens, groups, states]."""

    def run(
        hidden_states: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        chunk_size: int,
        D: Tensor | None = None,
        dt_bias: Tensor | None = None,
        initial_states: Tensor | None = None,
        dt_softplus: bool = False,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        assert initial_states is not None, "the cache holds no state"
        dt = time_steps(dt, dt_bias, dt_softplus)
        dt = torch.clamp(dt, min=dt_limit[0], max=dt_limit[1]).float()
        values, repeats = hidden_states.float(), hidden_states.shape[2] // B.shape[2]
        key, query = (x.float().repeat_interleave(repeats, dim=2).transpose(1, 2) for x in (B, C))
        decay = (A.to(dt.dtype) * dt).transpose(1, 2)[..., None, None]
        steps = (values * dt[..., None]).transpose(1, 2)
        outputs, state = linear_recurrence(query, key, steps, decay, initial_states.float().transpose(2, 3))
        result = outputs.transpose(1, 2)
        result = result if D is None else result + D[..., None] * values
        return result.contiguous(), state.transpose(2, 3).contiguous()

    return run


def selective_scan(original: Kernel, recurrent: Recurrent) -> Kernel:
    """Mamba: values and steps [batch, channels, tokens], `B`, `C` [batch, states, tokens], `A` [channels, states]."""

    def run(
        hidden_states: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        dtype = hidden_states.dtype
        dt = time_steps(dt.transpose(1, 2), delta_bias, delta_softplus)
        values = hidden_states.transpose(1, 2)
        key, query = (x.float().transpose(1, 2)[:, None] for x in (B, C))
        decay = dt[:, None, :, None] * A.transpose(0, 1)[None, None, None]
        state = recurrent.take().float().transpose(1, 2)[:, None]
        outputs, last = linear_recurrence(query, key, (values * dt).float()[:, None], decay, state)
        result = outputs[:, 0].to(dtype)
        result = result if D is None else result + values * D
        result = result.transpose(1, 2)
        return result if z is None else result * functional.silu(z), last[:, 0].transpose(1, 2).to(dtype)

    return run


def time_steps(dt: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    dt = dt if bias is None else dt + bias.to(dt.dtype)
    return functional.softplus(dt) if softplus else dt


# By the names of transformers' reference functions.
_KERNELS: Mapping[str, Callable[[Kernel, Recurrent], Kernel]] = MappingProxyType(
    {
        "torch_chunk_gated_delta_rule": delta_rule,
        "chunk_kimi_delta_attention": delta_rule,
        "mamba2_chunk_scan": state_space_duality,
        "mamba_selective_scan": selective_scan,
        "rwkv_linear_attention": lambda original, recurrent: recurrent_scans.weighted_keys,
    }
)
# Of classes: by the name of a method, or of a method and an attribute that its objects have.
_METHODS: Mapping[tuple[str, str], Kernel] = MappingProxyType(
    {
        ("_rnn_scan", ""): recurrent_scans.gated_scan,
        ("forward", "sequence_kernel_fn"): recurrent_scans.matrix_memory,
        ("forward", "diagonal_decay"): recurrent_scans.lightning_attention,
    }
)


@contextlib.contextmanager
def traceable_recurrences(model: nn.Module) -> Iterator[None]:
    """Let the recurrent layers of a model run as our operator, and their caches take new states without writing."""
    from transformers.cache_utils import Cache, LinearAttentionLayer

    recurrent, changes = Recurrent(), list[tuple[Any, str, Any]]()
    ask = getattr(Cache, "get_recurrent_state", None)
    if ask is not None:
        changes.append((Cache, "get_recurrent_state", lambda *args, **kwargs: recurrent.give(ask(*args, **kwargs))))
    else:  # before transformers 5.20 or so, layers read the states themselves
        changes.append((LinearAttentionLayer, "recurrent_states", read_through(recurrent)))
    changes += [
        (LinearAttentionLayer, "update_conv_state", append_window),
        (LinearAttentionLayer, "update_recurrent_state", assign_state),
    ]
    for space in {sys.modules[type(part).__module__] for part in model.modules()}:
        for name, make in _KERNELS.items():
            if callable(vars(space).get(name)):
                changes.append((space, name, make(getattr(space, name), recurrent)))
    for part in model.modules():
        for (method, attribute), form in _METHODS.items():
            if hasattr(type(part), method) and (not attribute or hasattr(part, attribute)):
                changes.append((type(part), method, form))
    with contextlib.ExitStack() as stack:
        for owner, name, new in changes:
            stack.callback(put_back, owner, name, vars(owner).get(name, _NOTHING))
            setattr(owner, name, new)
        yield


_NOTHING = object()


def put_back(owner: Any, name: str, old: Any) -> None:
    """What an owner had under a name of its own, or nothing."""
    if old is _NOTHING:
        delattr(owner, name)
    else:
        setattr(owner, name, old)


class States(UserDict[int, Any]):
    """The recurrent states of a layer, by index; the state that is read is the one that the next scan goes on from."""

    def __init__(self, states: dict[int, Any], recurrent: Recurrent) -> None:
        self.data, self.recurrent = states, recurrent

    def __getitem__(self, index: int) -> Any:
        return self.recurrent.give(self.data[index])


def read_through(recurrent: Recurrent) -> property:
    """A layer's `recurrent_states` with every reading told."""

    def read(layer: Any) -> States:
        return States(vars(layer)["recurrent_states"], recurrent)

    def write(layer: Any, states: Any) -> None:
        vars(layer)["recurrent_states"] = states

    return property(read, write)


def append_window(layer: Any, conv_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
    """`LinearAttentionLayer.update_conv_state` for a layer that has a state: the new one is assigned."""
    whole = torch.cat([layer.conv_states[state_idx], conv_states], dim=-1)
    layer.conv_states[state_idx] = whole[..., -layer.conv_kernel_size[state_idx] :]
    return whole


def assign_state(layer: Any, recurrent_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
    """`LinearAttentionLayer.update_recurrent_state`: the new state is assigned, in the type of the old."""
    new = recurrent_states.to(layer.recurrent_states[state_idx].dtype)
    layer.recurrent_states[state_idx] = new
    return new
