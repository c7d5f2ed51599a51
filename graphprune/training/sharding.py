"""Sharding: one training over many processes with a part of every tensor in each (FSDP2).

Source: `torch.distributed.fsdp.fully_shard`; Zhao et al., arXiv 2304.11277.
"""

import os
from typing import TYPE_CHECKING

import torch

from graphprune.errors import UsageError
from graphprune.training.adapters import Trainee
from graphprune.training.distributed import full
from graphprune.training.layer_modules import segmented, source_name
from graphprune.training.options import TrainOptions

if TYPE_CHECKING:
    from accelerate import Accelerator


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
    return True


def shard(trainee: Trainee, device: torch.device) -> Trainee:
    """Spread a model that is trained whole over all processes, layer by layer; no device ever holds all of it.

    Its trainable tensors become `DTensor`s of the same names, so the optimizer must be made afterwards. Forward,
    backward and `merged` are then collective: every process takes part in each.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    graph, layers = segmented(trainee.graph)
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(graph.module, mesh=mesh)
    found = {source_name(name): tensor for name, tensor in graph.module.named_parameters(remove_duplicate=False)}
    trainable = {name: found[name] for name in trainee.trainable}
    return Trainee(graph, trainable, lambda: {name: full(tensor.detach()) for name, tensor in trainable.items()})
