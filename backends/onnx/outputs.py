"""Outputs: a part of a graph that gives some of what it gives, and takes what these need: one tower of two."""

from collections.abc import Sequence
from dataclasses import replace

from graphprune.errors import ExportError
from graphprune.ir.graph import Graph
from graphprune.running.forms.causal import with_outputs


def giving(graph: Graph, names: Sequence[str]) -> Graph:
    """The graph for these outputs alone, all of it where none is named; inputs that nothing reads are gone.

    Raises ExportError for an output that it has not, and for a language model, whose outputs go together.
    """
    if not names:
        return graph
    unknown = next((name for name in names if name not in graph.outputs), None)
    if unknown is not None:
        raise ExportError(
            f"onnx{{outputs={unknown}}}: the graph gives {', '.join(graph.outputs[:8])}; name some of these"
        )
    if graph.source.kind == "decoder":
        raise ExportError("onnx{outputs=...} is of models without a cache; leave it out")
    part = with_outputs(graph, tuple(names), tuple(graph.results[name].name for name in names))
    read = {name: node for name, node in part.placeholders.items() if node.users}
    if not read:
        raise ExportError(f"{', '.join(names)} depend on no input, which no runtime takes; name other outputs")
    for name, node in part.placeholders.items():
        if name not in read:
            part.module.graph.erase_node(node)
    part.module.recompile()
    return replace(part, inputs=tuple(read))
