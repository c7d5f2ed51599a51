"""Probes: identity matrices that part the axis of what a node gives from that of what reads it, to look at each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.analysis.groups import Slot
from graphprune.edits.obstacles import Along
from graphprune.edits.tensors import read_new, with_all
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place
from graphprune.ir.types import tensor_type

_PROBE = "probed."


@dataclass(frozen=True, eq=False)
class Probed:
    """A graph with probes, for its axes alone: it has no weights. Nodes have the names that they had."""

    graph: Graph
    analysis: Analysis
    probes: tuple[fx.Node, ...]

    def along(self, axis: int) -> Along:
        """One of its axes."""
        inference = self.analysis.inference
        return Along(inference, inference.algebra.find(axis))  # type: ignore[arg-type]

    def behind(self, number: int) -> Along:
        """The axis of what reads the node with the probe of this number."""
        weight = next(n for n in self.graph.module.graph.find_nodes(op="get_attr") if n.target == f"{_PROBE}{number}")
        return self.along(self.analysis.inference.axes[weight][0])

    def slots(self, along: Along) -> tuple[Slot, ...]:
        """The slots of an axis, those of probes left out."""
        find = self.analysis.inference.algebra.find
        groups = (g for g in self.analysis.groups.groups if find(self.analysis.atoms[g.id]) == along.axis)
        return tuple(slot for group in groups for slot in group.slots if not slot.name.startswith(_PROBE))


def probe(graph: Graph, names: Sequence[str]) -> Probed:
    """The graph with a probe behind each of these nodes, over their last dimension."""
    fork = place(graph, torch.device("meta"))
    nodes = {node.name: node for node in fork.nodes}
    tensors: dict[str, Tensor] = dict(fork.tensors())
    probes = []
    for number, name in enumerate(names):
        node = nodes[name]
        size = tensor_type(node).shape[-1]
        weight = torch.nn.Parameter(torch.empty(size, size, dtype=tensor_type(node).dtype, device="meta"))
        tensors[f"{_PROBE}{number}"] = weight
        made = follow(fork.module.graph, node, f"{_PROBE}{number}", weight)
        node.replace_all_uses_with(made, delete_user_cb=lambda user, made=made: user is not made)  # type: ignore[misc]
        probes.append(made)
    found = with_all(fork, tensors)
    fresh = {node.name: node for node in found.nodes}
    return Probed(found, analyze_axes(found), tuple(fresh[each.name] for each in probes))


def follow(graph: fx.Graph, node: fx.Node, name: str, weight: Tensor) -> fx.Node:
    """A linear call behind a node that reads it, with a new weight [n, n]."""
    with graph.inserting_after(node):
        made = graph.call_function(torch.ops.aten.linear.default, (node, node))
    made.args = (node, read_new(graph, made, name, weight))
    made.meta |= {"value": node.meta["value"], "scope": node.meta.get("scope", "")}
    return made
