"""Constant folding at capture: small tensors that depend on nothing become buffers, which are cut like any other."""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.frontend.tracing.draft import Draft
from graphprune.ir.operators import opname
from graphprune.ir.types import Size, TensorType

_LARGEST = 65536  # elements; larger ones stay computed
_RANDOM = {"rand", "randn", "randint", "bernoulli"}
_EQUAL = {"full", "zeros", "ones", "new_ones", "new_zeros", "new_full", "scalar_tensor"}


def fold_constants(draft: Draft) -> int:
    """Replace maximal constant subgraphs by attributes named `constants.N`, and add their tensors; how many."""
    graph, tensors, folded = draft.graph, draft.tensors, 0
    values: dict[fx.Node, Any] = {}
    for node in list(graph.nodes):
        if is_lifted(node, tensors):
            values[node] = tensors[str(node.target)]
        elif is_constant(node, values):
            values[node] = evaluate(node, values)
    for node in list(values):
        if all(user in values for user in node.users) or not worth_folding(node):
            continue
        name = f"constants.{sum(key.startswith('constants.') for key in tensors)}"
        tensors[name] = values[node]
        with graph.inserting_before(node):
            attribute = graph.get_attr(name)
        attribute.meta["value"] = node.meta["value"]
        node.replace_all_uses_with(attribute)
        folded += 1
    return folded


def is_lifted(node: fx.Node, tensors: Mapping[str, Tensor]) -> bool:
    """Say whether this is a small tensor that the model makes from numbers when it runs: nothing will load into it."""
    name = str(node.target)
    return node.op == "get_attr" and name.startswith("constants.") and is_small(node) and not tensors[name].is_meta


def is_small(node: fx.Node) -> bool:
    value = node.meta.get("value")
    types = value if isinstance(value, tuple) else (value,)
    return all(isinstance(t, TensorType) and elements(t.shape) <= _LARGEST for t in types)


def elements(shape: Sequence[Size]) -> float:
    """How many entries a shape has; infinitely many where a size is symbolic."""
    return math.prod(size if isinstance(size, int) else math.inf for size in shape)


def is_constant(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Say whether a call's result is a small tensor of static shape, or several, made from constants alone."""
    if node.op != "call_function" or not is_small(node):
        return False
    if not isinstance(node.target, torch._ops.OpOverload) and node.target is not operator.getitem:
        return False
    return all(n in values for n in node.all_input_nodes) and opname(node) not in _RANDOM


def worth_folding(node: fx.Node) -> bool:
    """Equal entries stay a call, whose sizes can follow any axis; a computed table becomes a buffer."""
    return node.op != "get_attr" and opname(node) not in _EQUAL


def evaluate(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    def operand(argument: Any) -> Any:
        return values[argument] if isinstance(argument, fx.Node) else argument

    args = torch.fx.node.map_aggregate(node.args, operand)
    kwargs = dict(torch.fx.node.map_aggregate(node.kwargs, operand))
    if "device" in kwargs:
        kwargs["device"] = "cpu"
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]
