"""The printed form of a graph: one line a node, short and stable across runs and machines."""

from torch import fx
from torch.fx.node import Argument

from graphprune.ir.graph import Graph
from graphprune.ir.operators import operator_name
from graphprune.ir.types import TensorType

_MAXIMUM = 2**63 - 1


def print_graph(graph: Graph) -> str:
    """Return the graph as text: values are numbered in order, parameters appear by name where they are used."""
    names: dict[fx.Node, str] = {}
    lines = []
    for name, node in graph.placeholders.items():
        names[node] = name
        lines.append(f"  {name}: {node.meta['value']}")
    body: list[str] = []
    for node in graph.nodes:
        if node.op == "get_attr":
            names[node] = f"@{node.target}"
        elif node.op == "call_function":
            names[node] = f"%{len(body)}"
            body.append(f"  {names[node]}: {print_value(node.meta.get('value'))} = {print_call(node, names)}")
    returned = [f"  {name} = {names[node]}" for name, node in graph.results.items()]
    return "\n".join(["inputs", *lines, "body", *body, "outputs", *returned])


def print_value(value: object) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(print_value, value)) + ")"
    return str(value) if isinstance(value, TensorType) else f"size {value}"


def print_call(node: fx.Node, names: dict[fx.Node, str]) -> str:
    """Render one call with its operands, without the overload's `default`."""
    positional = [print_argument(a, names) for a in node.args]
    named = [f"{key}={print_argument(a, names)}" for key, a in node.kwargs.items()]
    return f"{operator_name(node)}({', '.join(positional + named)})"


def print_argument(argument: Argument, names: dict[fx.Node, str]) -> str:
    if isinstance(argument, fx.Node):
        return names[argument]
    if isinstance(argument, (list, tuple)):
        return "[" + ", ".join(print_argument(a, names) for a in argument) + "]"
    return "end" if argument == _MAXIMUM and isinstance(argument, int) else str(argument)
