"""Casts for mixed precision as nodes of the graph, so that what they make can be computed again.

Autocast casts what a product reads within the product, and autograd saves the copy, which no other value knows of. As
nodes, one for each product and value, the casts are the same to the bit in forward and backward.
"""

import torch
from torch import fx

from graphprune.ir.graph import Graph
from graphprune.ir.operators import operator_key
from graphprune.ir.types import TensorType

# Of what autocast narrows on every device, what takes activations here.
_NARROWED = frozenset(
    f"aten.{name}" for name in ("linear", "addmm", "mm", "bmm", "matmul", "scaled_dot_product_attention")
)


def with_casts(graph: Graph, dtype: torch.dtype) -> Graph:
    """The graph in which every activation in float32 that autocast would cast to `dtype` is cast before it is read;
    under autocast it computes the same bits."""
    fork = graph.fork()
    nodes = fork.module.graph
    for node in [node for node in fork.nodes if node.op == "call_function" and operator_key(node) in _NARROWED]:
        for value in filter(is_wide, node.all_input_nodes):
            with nodes.inserting_before(node):
                cast = nodes.call_function(torch.ops.aten.to.dtype, (value, dtype))
            cast.meta["value"] = TensorType(dtype, value.meta["value"].shape)
            node.replace_input_with(value, cast)
    fork.module.recompile()
    return fork


def is_wide(node: fx.Node) -> bool:
    """Say whether a value is computed and in float32; parameters are left to autocast, which keeps what it casts."""
    kind = node.meta.get("value")
    return node.op == "call_function" and isinstance(kind, TensorType) and kind.dtype == torch.float32
