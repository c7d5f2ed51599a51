"""Placement: the device that a graph's weights lie on, and which of them share memory."""

from collections.abc import Mapping

import torch
from torch import Tensor

from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.weights.stored import any_stored, real, stored_on


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
    if (stored := stored_on(tensor, device, kind)) is not None:
        return stored
    moved = tensor.detach().to(device, kind)
    return torch.nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else moved


def real_weights(graph: Graph) -> Graph:
    """The graph with memory for every weight that is only stored."""
    stored = {name: tensor for name, tensor in graph.tensors().items() if any_stored([tensor])}
    once = {id(tensor): real(tensor) for tensor in stored.values()}
    return graph.with_tensors({name: once[id(tensor)] for name, tensor in stored.items()}) if stored else graph


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, detached; a view into larger memory and every further tensor in the same memory are copied.

    A weight that is only stored gets memory, too.
    """
    seen = set[int]()
    found = {}
    for name, given in tensors.items():
        tensor = real(given)
        own = owns_memory(tensor) and tensor.untyped_storage().data_ptr() not in seen
        seen.add(tensor.untyped_storage().data_ptr())
        found[name] = tensor.detach() if own else tensor.detach().clone(memory_format=torch.contiguous_format)
    return found


def owns_memory(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.nbytes == tensor.untyped_storage().nbytes()


def device_of(graph: Graph) -> torch.device:
    """Where the graph's tensors are. Raises UsageError for a graph captured without weights."""
    device = next((tensor.device for tensor in graph.tensors().values()), torch.device("cpu"))
    if device.type == "meta":
        raise UsageError("this graph was captured without weights and cannot run; capture it with weights=True")
    return device
