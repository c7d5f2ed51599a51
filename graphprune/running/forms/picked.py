"""Picked stacks: rows times the expert that was picked for each, without a copy of an expert's weight for every row.

A graph picks from a stack of weights by index and multiplies in a batch, one product a row, since its shapes may not
depend on values. Here rows of one expert are multiplied together: as many products as there are experts.
"""

from typing import NamedTuple

import torch
from torch import Tensor, fx

from graphprune.ir.graph import Graph
from graphprune.ir.operators import opname, remove_dead
from graphprune.ir.types import TensorType
from graphprune.weights.stored import any_stored


class Product(NamedTuple):
    """A batch of products: which tensor the weights are picked from, by which indices, and what they multiply."""

    call: fx.Node
    stack: fx.Node
    picks: fx.Node
    column: fx.Node


def picked_form(graph: Graph) -> Graph:
    """The graph whose picked weights are multiplied expert by expert; the graph itself where it picks none.

    Outputs are those of the graph but for rounding. Parameters are shared. As an IR the result is of no use.
    """
    if not any(find_product(node) for node in graph.nodes) or any_stored(graph.tensors().values()):
        return graph
    fork = graph.fork()
    for product in list(filter(None, map(find_product, fork.nodes))):
        with fork.module.graph.inserting_before(product.call):
            made = fork.module.graph.call_function(multiply_picked, (product.stack, product.picks, product.column))
        made.meta |= product.call.meta
        made.name = product.call.name
        product.call.replace_all_uses_with(made)
    remove_dead(fork.module.graph)
    fork.module.recompile()
    return fork


def find_product(node: fx.Node) -> Product | None:
    """The product that a call is of weights [experts, outputs, inputs] picked one for a row, and of columns."""
    if opname(node) != "bmm":
        return None
    weight, column = node.args
    if not isinstance(weight, fx.Node) or not isinstance(column, fx.Node) or opname(weight) != "index":
        return None
    stack, places = weight.args
    if not isinstance(stack, fx.Node) or stack.op != "get_attr" or not isinstance(places, (list, tuple)):
        return None
    value, picks = column.meta.get("value"), places[0]
    one = isinstance(value, TensorType) and value.shape[-1] == 1
    return Product(node, stack, picks, column) if one and len(places) == 1 and isinstance(picks, fx.Node) else None


def multiply_picked(stack: Tensor, picks: Tensor, column: Tensor) -> Tensor:
    """`bmm(stack[picks], column)`: stack [experts, outputs, inputs], picks [rows], column [rows, inputs, 1]."""
    order = torch.argsort(picks, stable=True)
    counts = torch.bincount(picks, minlength=len(stack)).tolist()
    parts = torch.split(column.squeeze(-1).index_select(0, order), counts)
    made = torch.cat([rows @ weight.T for rows, weight in zip(parts, stack.unbind(), strict=True)])
    return made.index_select(0, torch.argsort(order)).unsqueeze(-1)
