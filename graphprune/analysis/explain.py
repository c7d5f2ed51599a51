"""Explanations: the path of operators that couples two weight dimensions."""

import itertools

import networkx

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.axes.algebra import Axis
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import operator_name


def coupling_graph(analysis: Analysis) -> "networkx.Graph[Axis]":
    """Axes as nodes, relations as edges; each edge's `node` names the operator call that made it."""
    coupling: networkx.Graph[Axis] = networkx.Graph()
    for left, right, node in analysis.inference.algebra.edges:
        if not coupling.has_edge(left, right):
            coupling.add_edge(left, right, node=node)
    return coupling


def explain(graph: Graph, first: str, second: str) -> str:
    """Say why two weight dimensions (`name:dim`) must be cut together, operator by operator, or that they need not be.

    Raises UsageError for a dimension that the graph does not have.
    """
    analysis = analyze_axes(graph)
    algebra = analysis.inference.algebra
    ends = [find_dimension(analysis, text) for text in (first, second)]
    shared = set(algebra.atoms(ends[0])) & set(algebra.atoms(ends[1]))
    if not shared:
        return f"{first} and {second} are not coupled: no group has a slot in both"
    ids = {atom: id for id, atom in analysis.atoms.items()}
    coupling = coupling_graph(analysis)
    carrying = [a for a in coupling if shared & set(algebra.atoms(a))]
    lines = [f"{first} and {second} share {', '.join(ids.get(a, '?') for a in sorted(shared))}"]
    try:
        path = networkx.shortest_path(coupling.subgraph(carrying), *ends)
    except (networkx.NetworkXNoPath, networkx.NodeNotFound):
        return lines[0]
    nodes = {node.name: node for node in graph.nodes}
    last = ""
    for a, b in itertools.pairwise(path):
        name = coupling.edges[a, b]["node"]
        if name in nodes and name != last:
            node = nodes[name]
            lines.append(
                f"  {operator_name(node)} {node.meta['value']}  in {node.meta.get('scope') or 'the model'}  ({name})"
            )
        last = name
    return "\n".join(lines)


def find_dimension(analysis: Analysis, text: str) -> Axis:
    """The axis of `parameter:dim`; a group id may stand for its first slot."""
    name, _, rest = text.rpartition(":")
    dim = rest.split("/")[0]
    nodes = {str(n.target): n for n in analysis.graph.module.graph.find_nodes(op="get_attr")}
    if name not in nodes or not dim.isdigit() or int(dim) >= len(analysis.inference.axes[nodes[name]]):
        close = [n for n in nodes if name and (name in n or n in text)][:3]
        hint = f"; near: {', '.join(close)}" if close else ""
        raise UsageError(
            f"{text} is no weight dimension; write it as parameter:dim, such as {next(iter(nodes))}:0{hint}"
        )
    return analysis.inference.axes[nodes[name]][int(dim)]
