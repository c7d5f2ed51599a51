"""Placement: a graph on another device, or with its weights in a narrower type."""

import torch
from torch import Tensor

from graphprune.errors import UsageError
from graphprune.ir import Graph


def choose_device(name: str | None) -> torch.device:
    """The device of this name; None is the accelerator that torch finds, or the CPU. Raises UsageError."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{name!r} is no device; write cpu, cuda or cuda:1") from error
    if device.type != "cpu" and (found is None or found.type != device.type):
        raise UsageError(f"there is no device {name}; leave the option out, or write cpu")
    return device


def place(graph: Graph, device: torch.device, dtype: torch.dtype | None = None) -> Graph:
    """Return the graph on a device; tensors that are there already are shared.

    With `dtype`, parameters of two and more dimensions are kept in it: the graph then runs under autocast. Constants
    that the graph makes itself (`arange` and the like) are made on the device as well.
    """
    moved = {name: place_tensor(tensor, device, dtype) for name, tensor in graph.tensors().items()}
    return place_nodes(graph.with_tensors(moved), device)


def place_nodes(graph: Graph, device: torch.device) -> Graph:
    """Return the graph with the constants that it makes itself on a device, and its tensors where they are."""
    result = graph.fork()
    for node in result.nodes:
        if isinstance(node.kwargs.get("device"), torch.device):
            node.kwargs = {**node.kwargs, "device": device}
    result.module.recompile()
    return result


def place_tensor(tensor: Tensor, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    narrow = dtype is not None and tensor.is_floating_point() and tensor.dim() > 1
    moved = tensor.detach().to(device, dtype if narrow else tensor.dtype)
    if moved.data_ptr() == tensor.data_ptr():
        return tensor
    return torch.nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else moved
