"""Held: a graph that computes with the zeros of its patterns, whatever values its weights take while it is trained."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from graphprune.ir.graph import Graph, copy_nodes
from graphprune.ir.types import TensorType
from graphprune.weights.patterns import kept_entries

_SUFFIX = "_kept"


def held(graph: Graph) -> Graph:
    """The graph with each weight that has a pattern times what is kept of it, ones and zeros; parameters are shared.

    Gradients of the others are zero then, and what an optimizer adds to them counts for nothing. The graph itself where
    no weight has a pattern.
    """
    return multiplied(graph, kept_entries(graph.companions), torch.ops.aten.mul.Tensor)


def multiplied(graph: Graph, kept: Mapping[str, Tensor], product: Callable[..., Tensor]) -> Graph:
    """The graph whose calls read products of these weights with what is kept of them; tensors are shared."""
    nodes = copy_nodes(graph.module.graph)
    tensors = dict(graph.tensors())
    found = [node for node in nodes.find_nodes(op="get_attr") if str(node.target) in kept]
    if not found:
        return graph
    for node in found:
        name = f"{node.target}{_SUFFIX}"
        tensors[name] = kept[str(node.target)].to(tensors[str(node.target)].device)
        multiply(node, name, product)
    module = fx.GraphModule(tensors, nodes)
    module.train(graph.module.training)
    return replace(graph, module=module)


def multiply(node: fx.Node, name: str, product: Callable[..., Tensor]) -> None:
    """Let all that reads a parameter read its product with a buffer of this name."""
    nodes, kind, scope = node.graph, node.meta["value"], node.meta.get("scope", "")
    with nodes.inserting_after(node):
        mask = nodes.get_attr(name)
    mask.meta |= {"value": TensorType(torch.bool, kind.shape), "scope": scope}
    with nodes.inserting_after(mask):
        made = nodes.call_function(product, (node, mask))
    made.meta |= {"value": kind, "scope": scope}
    node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)


def with_zeros(weights: Mapping[str, Tensor], graph: Graph) -> dict[str, Tensor]:
    """Weights by their names in the graph, with zeros where their patterns have them."""
    kept = kept_entries(graph.companions)
    return {name: w * kept[name].to(w.device) if name in kept else w for name, w in weights.items()}
