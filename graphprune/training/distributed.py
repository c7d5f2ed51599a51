"""Distributed training: one training over many processes, each with the whole model or with a part of every tensor.

Source: `torch.distributed.fsdp.fully_shard` (FSDP2); Zhao et al., arXiv 2304.11277.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from graphprune.errors import TrainingError, UsageError
from graphprune.ir.graph import Graph
from graphprune.training.adapters import Trainee
from graphprune.training.options import TrainOptions

if TYPE_CHECKING:
    from accelerate import Accelerator

    from graphprune.training.objective.predictor import Predictor


def is_sharded(options: TrainOptions, accelerator: "Accelerator") -> bool:
    """Say whether this training is to be sharded: the options say so, or `accelerate launch --use_fsdp`.

    A single process has nothing to share. Raises UsageError for what cannot be sharded.
    """
    asked = options.shard or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if not asked or accelerator.num_processes == 1:
        return False
    if options.lora is not None:
        raise UsageError("LoRA is not trained in shards; leave out shard (each process then has the whole model)")
    if options.precision == "fp16":
        raise UsageError("precision=fp16 is not trained in shards; take bf16 or none")
    if options.states != "float32" or options.in_backward:
        raise UsageError("states=bf16, int8 and in_backward=true take whole weights; leave them out, or shard")
    return True


def shard(trainee: Trainee, model: "Predictor", device: torch.device) -> Trainee:
    """Spread a model that is trained whole over all processes, layer by layer; no device ever holds all of it.

    `model` is made of the trainee's graph, with a module for each layer. Its trainable tensors become `DTensor`s of the
    same names, so the optimizer must be made afterwards. Forward, backward and `merged` are then collective: every
    process takes part in each. What is outside of layers stays together from forward to backward, for the head.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    names = {id(tensor): name for name, tensor in trainee.trainable.items()}
    paths = {names[id(p)]: path for path, p in model.named_parameters(remove_duplicate=False)}
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    found = dict(model.named_parameters(remove_duplicate=False))
    trainable = {name: found[paths[name]] for name in trainee.trainable}
    return Trainee(model.graph, trainable, lambda: {name: full(tensor.detach()) for name, tensor in trainable.items()})


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that is spread over processes, in each of them; any other tensor as it is.

    Collective: all processes call it for the same tensors in the same order.
    """
    if not is_spread(tensor):
        return tensor
    return tensor.full_tensor()  # type: ignore[attr-defined, no-any-return]


def fill(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor, which is the same in every process, into one that may be spread over them."""
    with torch.no_grad():
        target.copy_(spread_like(target, value) if is_spread(target) else value)


def spread_like(target: Tensor, value: Tensor) -> Tensor:
    """This process's part of a whole tensor, spread as the target is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(target, DTensor)
    value = value.to(target.device, target.dtype)
    return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)


def is_spread(tensor: Tensor) -> bool:
    """Say whether a process holds only a part of this tensor."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.tensor import DTensor  # takes most of a second to import

    return isinstance(tensor, DTensor)


def agreed(graph: Graph, device: torch.device) -> Graph:
    """The graph as the first process has it, in all of them: its parameters and companions go out by way of `device`.

    Each process prunes for itself, and on some devices the same sums differ in the last bit. Raises TrainingError where
    the shapes differ, that is where the processes are not of one run. Collective.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return graph
    flat = {f"{kind}/{name}": t for kind, part in graph.companions.items() for name, t in part.items()}
    require_same_shapes({**graph.parameters(), **flat})
    parameters = {
        name: torch.nn.Parameter(from_first(p, device), p.requires_grad) for name, p in graph.parameters().items()
    }
    companions = {
        kind: {name: from_first(part[name], device) for name in sorted(part)}
        for kind, part in sorted(graph.companions.items())
    }
    return replace(graph.with_tensors(parameters), companions=companions)


def require_same_shapes(tensors: Mapping[str, Tensor]) -> None:
    """Raise TrainingError, in every process, where the first process has tensors of other names or shapes."""
    own = {name: f"{tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors.items()}
    everyone: list[dict[str, str]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(everyone, own)
    for index, other in enumerate(everyone):
        wrong = next((n for n in {**everyone[0], **other} if everyone[0].get(n) != other.get(n)), None)
        if wrong is not None:
            raise TrainingError(
                f"process {index} has {wrong} as {other.get(wrong, 'nothing')}, process 0 as "
                f"{everyone[0].get(wrong, 'nothing')}; start all processes with the same command, model and versions"
            )


def from_first(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of the tensor as the first process has it, where this one has its own."""
    sent = tensor.detach().to(device, copy=True).contiguous()
    distributed.broadcast(sent, src=0)
    return sent.to(tensor.device)
