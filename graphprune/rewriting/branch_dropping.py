"""Dropping residual branches: the sum becomes its other operands, the branch's cache entries leave the contract."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from graphprune.analysis.groups import Branch
from graphprune.ir.graph import Graph
from graphprune.ir.operators import sweep


def drop_branches(graph: Graph, branches: Sequence[Branch]) -> Graph:
    """Return the graph without these branches; nodes that nothing reads are left for the caller to remove."""
    if not branches:
        return graph
    nodes = {node.name: node for node in graph.nodes}
    for branch in branches:
        term = nodes[branch.branch]
        for add in list(term.users):
            if add.target is torch.ops.aten.add.Tensor:
                others = [operand for operand in add.all_input_nodes if operand is not term]
                add.replace_all_uses_with(others[0])
    return without_caches(graph, {cache for branch in branches for cache in branch.caches})


def without_caches(graph: Graph, caches: set[str]) -> Graph:
    """Remove cache entries from the outputs, and from the inputs those that nothing reads then."""
    gone = {f"present.{cache}" for cache in caches}
    output = graph.module.graph.output_node()
    results = {name: node for name, node in graph.results.items() if name not in gone}
    output.args = (tuple(results.values()),)
    dead = {f"past_key_values.{cache}" for cache in caches}
    placeholders = graph.placeholders
    sweep(graph.module.graph)
    for name in dead:
        assert not placeholders[name].users, f"{name} is still read after its branch was dropped"
        graph.module.graph.erase_node(placeholders[name])
    inputs = tuple(name for name in graph.inputs if name not in dead)
    graph.module.recompile()
    return replace(graph, inputs=inputs, outputs=tuple(results))
