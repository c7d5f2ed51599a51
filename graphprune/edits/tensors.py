"""The tensors of a graph that an edit adds to or changes."""

from collections.abc import Mapping
from dataclasses import replace

import numpy
import torch
from torch import Tensor, fx

from graphprune.analysis.groups import Slot
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.types import TensorType
from graphprune.weights.patterns import kept_entries


def read_new(graph: fx.Graph, before: fx.Node, name: str, tensor: Tensor) -> fx.Node:
    """A node before another one that reads a tensor of this name, which the graph does not have yet."""
    with graph.inserting_before(before):
        node = graph.create_node("get_attr", name)
    node.meta |= {"value": TensorType(tensor.dtype, tuple(tensor.shape)), "scope": before.meta.get("scope", "")}
    return node


def with_all(graph: Graph, tensors: Mapping[str, Tensor]) -> Graph:
    """The graph with these as all of its tensors; those that no node reads are left out."""
    names = {str(node.target) for node in graph.module.graph.find_nodes(op="get_attr")}
    module = fx.GraphModule({n: t for n, t in tensors.items() if n in names}, graph.module.graph)
    module.train(graph.module.training)
    return replace(graph, module=module)


def like(tensor: Tensor, old: Tensor) -> Tensor:
    """New values for a tensor, in its type; a parameter stays one."""
    value = tensor.to(old.dtype).contiguous()
    return torch.nn.Parameter(value, old.requires_grad) if isinstance(old, torch.nn.Parameter) else value


def name_beside(name: str, leaf: str) -> str:
    """The name of a tensor that belongs to another one: `o_proj.bias` to `o_proj.weight`."""
    scope, _, own = name.rpartition(".")
    return f"{scope}.{own.removesuffix('weight')}{leaf}" if scope else f"{own}_{leaf}"


def require_free(tensors: Mapping[str, Tensor], name: str) -> None:
    """Raise PlanError where there is a tensor of this name already."""
    if name in tensors:
        raise PlanError(f"the model has a tensor {name} already, which an edit would add; has it been edited before?")


def require_whole(graph: Graph, slots: tuple[Slot, ...], what: str) -> None:
    """Raise PlanError where a slot is no plain dimension of floats that one name has."""
    tensors = graph.tensors()
    names: dict[int, set[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), set()).add(name)
    for slot in slots:
        tensor = tensors[slot.name]
        if len(names[id(tensor)]) > 1:
            raise PlanError(f"{what}: {slot.name} is tied to another tensor; untie it first")
        if not tensor.is_floating_point() or not numpy.array_equal(slot.owner, numpy.arange(tensor.shape[slot.dim])):
            raise PlanError(f"{what}: {slot.name} holds it together with something else")


def require_dense(graph: Graph, what: str) -> None:
    """Raise PlanError where weights have patterns of zeros, which would be lost."""
    kept = kept_entries(graph.companions)
    if kept:
        raise PlanError(f"{what}: {next(iter(kept))} has a pattern of zeros, which would be lost; sparsify afterwards")
