"""Scoring: a graph that computes the logits of whole texts and nothing else, for reading many of them.

Without the cache that it would leave behind, and with attention by blocks: a block of queries reads no key behind it,
so that about half of the products with keys are left out, which the processor's kernel computes and then masks.
"""

from collections.abc import Iterator

import torch
from torch import fx
from torch.fx.node import Argument

from graphprune.ir.graph import Graph
from graphprune.ir.placement import device_of
from graphprune.running.forms.causal import ATTENTION, argument, causal_calls, made_of, mask_of, returning
from graphprune.running.forms.picked import picked_form

_BLOCK = 32  # queries; 64 are as fast, 128 save less
_aten = torch.ops.aten


def scoring_form(graph: Graph, length: int) -> Graph:
    """The graph for the logits of rows of `length` tokens from their beginning: its own but for rounding."""
    logits = (graph.results["logits"].name,)
    nodes = returning(graph, logits)
    if device_of(graph).type == "cpu" and length > _BLOCK:
        causal = causal_calls(graph, length)
        for node in [node for node in nodes.nodes if node.name in causal]:
            attend_by_blocks(nodes, node, length)
    return picked_form(made_of(graph, nodes, ("logits",)))


def attend_by_blocks(graph: fx.Graph, call: fx.Node, length: int) -> None:
    """Put one call for each block of queries, on the keys up to its end, in the place of a call."""
    with graph.inserting_before(call):
        blocks = [
            graph.call_function(_aten.transpose.int, (block, 1, 2)) for block in list(each_block(graph, call, length))
        ]
        # The kernel leaves a token's heads beside each other; joined so, the next layer reads them without a copy.
        joined = graph.call_function(_aten.cat.default, (blocks, 1))
        whole = graph.call_function(_aten.transpose.int, (joined, 1, 2))
    call.replace_all_uses_with(whole)
    graph.erase_node(call)


def each_block(graph: fx.Graph, call: fx.Node, length: int) -> Iterator[fx.Node]:
    """The calls of attention of each block of queries, in order."""
    queries, keys, values = call.args[:3]
    mask, dropout = mask_of(call), argument(call, 4, "dropout_p", 0.0)
    options = {name: value for name, value in call.kwargs.items() if name in ("scale", "enable_gqa")}

    def cut(node: Argument, dimension: int, start: int, end: int) -> fx.Node:
        return graph.call_function(_aten.slice.Tensor, (node, dimension, start, end))

    for start in range(0, length, _BLOCK):
        end = min(start + _BLOCK, length)
        seen = cut(cut(mask, -2, start, end), -1, 0, end)
        parts = (cut(queries, -2, start, end), cut(keys, -2, 0, end), cut(values, -2, 0, end))
        yield graph.call_function(ATTENTION, (*parts, seen, dropout, False), options)
