"""Operators: what a call calls, under each of the names that it goes by; its arguments; what is left without a reader.

Of `aten.add.Tensor`: `opname` is `add`, `overload_name` is `Tensor`, `operator_key`, by which rules are looked up, is
`aten.add`, `operator_name`, which is printed, is `add.Tensor`, `stored_name`, which a checkpoint holds, is all of it.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch._dynamo.config
from torch import fx
from torch.fx.node import Argument

from graphprune.errors import ExportError

_STORED = {"_operator": "operator", "math": "math", "torch": "torch"}  # Python modules that a checkpoint may name


def opname(node: fx.Node) -> str:
    """The operator's name without namespace and overload; empty for Python functions and for what is no call."""
    return node.target._opname if isinstance(node.target, torch._ops.OpOverload) else ""


def call_name(node: fx.Node) -> str:
    """The operator's name, or that of a Python function: `view`, `getitem`."""
    return opname(node) or str(getattr(node.target, "__name__", node.target))


def overload_name(node: fx.Node) -> str:
    """Which form of the operator is called; empty for Python functions."""
    return node.target._overloadname if isinstance(node.target, torch._ops.OpOverload) else ""


def stored_name(node: fx.Node) -> str:
    """The full name of a node's function: `aten.linear.default`, `operator.add`. Raises ExportError for others."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    space = _STORED.get(str(getattr(target, "__module__", "")))
    if space is None:
        raise ExportError(f"{node.name}: {target} has no name that a checkpoint can hold")
    return f"{space}.{call_name(node)}"


# Operators that leave the values of an integer tensor as they are.
SAME_VALUES = {
    "clone",
    "alias",
    "_to_copy",
    "view",
    "reshape",
    "_unsafe_view",
    "expand",
    "unsqueeze",
    "squeeze",
    "flatten",
    "transpose",
    "permute",
    "t",
    "slice",
    "contiguous",
    "detach",
    "lift_fresh_copy",
}


def index_origin(node: fx.Node) -> fx.Node:
    """The node that made an integer tensor's values: reshapes and copies are looked through."""
    while opname(node) in SAME_VALUES:
        node = node.all_input_nodes[0]
    return node


def function_of(node: fx.Node) -> Callable[..., object]:
    """The function that a call calls."""
    assert callable(node.target), f"{node.name} calls nothing"
    return node.target


def arguments_of(node: fx.Node, values: Mapping[fx.Node, object]) -> tuple[tuple[object, ...], dict[str, object]]:
    """A call's arguments, with values in the place of nodes."""

    def value_of(argument: fx.Node) -> Argument:
        return cast("Argument", values[argument])  # any object may stand where the node stood

    args, kwargs = fx.node.map_arg(node.args, value_of), fx.node.map_arg(node.kwargs, value_of)
    return args, dict(kwargs)


def operator_key(node: fx.Node) -> str:
    """The name that rules are looked up by: `aten.view`, `operator.getitem`, `transformers.grouped_mm_fallback`."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._opname}"
    return f"{getattr(target, '__module__', '').lstrip('_')}.{getattr(target, '__name__', target)}"


def bind(node: fx.Node) -> dict[str, Any]:
    """Arguments by their schema names, defaults filled in; Python operators by position."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(i): a for i, a in enumerate(node.args)}
    arguments: dict[str, Any] = {}
    for index, argument in enumerate(node.target._schema.arguments):
        if index < len(node.args):
            arguments[argument.name] = node.args[index]
        else:
            arguments[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return arguments


def rebind(node: fx.Node, changes: Mapping[str, Argument]) -> None:
    """Write changed arguments back into the node, where the schema puts them."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    args = list(node.args)
    kwargs = dict(node.kwargs)
    for name, value in changes.items():
        index = names.index(name)
        if index < len(args):
            args[index] = value
        else:
            kwargs[name] = value
    node.args, node.kwargs = tuple(args), kwargs


def operator_name(node: fx.Node) -> str:
    """The operator's short name: `linear`, `view`, `add.Tensor`; Python operators as they are called."""
    target = node.target
    name = str(target) if "." in str(target) and "<" not in str(target) else getattr(target, "__name__", str(target))
    return name.removeprefix("aten.").removesuffix(".default")


def remove_dead(graph: fx.Graph) -> int:
    """Erase every call and attribute whose value nothing reads; how many there were."""
    before = len(graph.nodes)
    for node in reversed(list(graph.nodes)):
        if node.op in ("call_function", "get_attr") and not node.users:
            graph.erase_node(node)
    return before - len(graph.nodes)


def sweep(graph: fx.Graph) -> None:
    """Erase calls that nothing reads."""
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users:
            graph.erase_node(node)
