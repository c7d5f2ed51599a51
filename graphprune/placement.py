"""Placement: a graph on another device, or with its weights in a narrower type."""

import torch
from torch import Tensor

from graphprune.ir import Graph
from graphprune.loss import device_of


def place(graph: Graph, device: torch.device, dtype: torch.dtype | None = None) -> Graph:
    """Return the graph on a device; tensors that are there already are shared, and companions stay where they are.

    With `dtype`, parameters of two and more dimensions are kept in it: the graph then runs under autocast. Constants
    that the graph makes itself (`arange` and the like) are made on the device as well.
    """
    once = {id(tensor): (name, tensor) for name, tensor in graph.tensors().items()}  # a tied tensor has several names
    moved = {name: place_tensor(tensor, device, dtype) for name, tensor in once.values()}
    return place_nodes(graph.with_tensors(moved), device)


def place_like(graph: Graph, other: Graph) -> Graph:
    """Return the graph where the other one is; the graph itself where it is there already."""
    here, there = device_of(graph), device_of(other)
    return graph if here == there else place(graph, there)


def on_cpu(graph: Graph) -> Graph:
    """The graph on the processor, as it is written; one that has no weights stays without."""
    kinds = {tensor.device.type for tensor in graph.tensors().values()}
    return graph if kinds <= {"cpu", "meta"} else place(graph, torch.device("cpu"))


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
    kind = dtype if narrow and dtype is not None else tensor.dtype
    if (tensor.device, tensor.dtype) == (device, kind):
        return tensor
    moved = tensor.detach().to(device, kind)
    return torch.nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else moved
