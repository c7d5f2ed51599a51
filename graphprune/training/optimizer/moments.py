"""Moments: the optimizer's state as the graph's companions, which a cut slices with their parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphprune.ir.graph import Graph
from graphprune.training.distributed import fill, full
from graphprune.training.optimizer.adamw import AdamW
from graphprune.training.optimizer.states import Narrow, narrow, widen

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer

KINDS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, eq=False)
class Moments:
    """The state of AdamW: by kind and parameter name a tensor of the parameter's shape, and the updates made so far."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    updates: int = 0


def carried_moments(graph: Graph) -> Moments | None:
    """The moments that an earlier training left in the graph, cut as it was cut since."""
    if any(kind not in graph.companions for kind in KINDS):
        return None
    return Moments({kind: graph.companions[kind] for kind in KINDS}, graph.memo.get("moments", {}).get("updates", 0))


def write_moments(
    optimizer: "AcceleratedOptimizer", trainable: Mapping[str, torch.nn.Parameter], moments: Moments
) -> None:
    """Let the optimizer go on from these moments; a parameter that has none there begins at zero.

    `optimizer` is what accelerate made of the optimizer.
    """
    made = optimizer.optimizer
    for name, parameter in trainable.items():
        state: dict[str, object] = {"step": torch.tensor(float(moments.updates), device=parameter.device)}
        for kind in KINDS:
            value = torch.zeros_like(parameter)
            if name in moments.tensors[kind]:
                fill(value, moments.tensors[kind][name])
            state[kind] = narrow(value, made.states) if isinstance(made, AdamW) else value
        made.state[parameter] = state


def read_moments(optimizer: "AcceleratedOptimizer", trainable: Mapping[str, torch.nn.Parameter]) -> Moments:
    """The moments that the optimizer has now, copied to the CPU."""
    states = {name: optimizer.optimizer.state.get(parameter) for name, parameter in trainable.items()}
    known = {name: state for name, state in states.items() if state}
    tensors = {kind: {name: to_cpu(wide(state[kind])) for name, state in known.items()} for kind in KINDS}
    return Moments(tensors, max((int(state["step"]) for state in known.values()), default=0))


def wide(moment: Tensor | Narrow) -> Tensor:
    """A moment in float32, whatever it is kept in."""
    return widen(moment) if isinstance(moment, Narrow) else moment


def to_cpu(tensor: Tensor) -> Tensor:
    """A copy of the whole tensor on the CPU that shares nothing. Collective where it is spread over processes."""
    return full(tensor.detach()).to("cpu", copy=True).contiguous()
