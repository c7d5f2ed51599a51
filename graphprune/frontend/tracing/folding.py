"""Constant folding at capture: small tensors that depend on nothing become buffers, which are cut like any other."""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.ir.operators import opname
from graphprune.ir.types import Size, TensorType

_LARGEST = 65536  # elements; larger ones stay computed
# Calls whose results hold some of the values of their first argument, and no others.
_SAME_VALUES = {"view", "reshape", "slice", "select", "squeeze", "unsqueeze", "expand", "permute", "transpose", "clone"}
# Calls that give values and their places, with where they name the dimension, and calls that give places alone.
_PICKS = {"topk": 2, "max": 1, "min": 1, "sort": 1, "kthvalue": 2}
_PLACES = {"argmax", "argmin", "argsort"}
_RANDOM = {"rand", "randn", "randint", "bernoulli"}
_EQUAL = {"full", "zeros", "ones", "new_ones", "new_zeros", "new_full", "scalar_tensor"}


def fold_constants(graph: fx.Graph, tensors: dict[str, Tensor]) -> None:
    """Replace maximal constant subgraphs by attributes named `constants.N`, and add their tensors."""
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


def picks_to_slices(graph: fx.Graph, tensors: dict[str, Tensor]) -> None:
    """Replace `x[:, [4, 5]]` by `x[:, 4:6]`: a pick by consecutive constants is a slice, which splits its axis."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.index.Tensor):
        source, picks = node.args
        chosen = [(dim, pick) for dim, pick in enumerate(picks) if pick is not None]
        if len(chosen) != 1 or chosen[0][1].op != "get_attr":
            continue
        dim, pick = chosen[0]
        indices, size = tensors[str(pick.target)], source.meta["value"].shape[dim]
        if indices.ndim != 1 or indices.dtype == torch.bool or not isinstance(size, int) or not len(indices):
            continue
        start = int(indices[0]) % size
        if not torch.equal(indices % size, torch.arange(start, start + len(indices))):
            continue
        with graph.inserting_before(node):
            cut = graph.call_function(torch.ops.aten.slice.Tensor, (source, dim, start, start + len(indices)))
        cut.meta = dict(node.meta)
        node.replace_all_uses_with(cut)


def drop_idle_clamps(graph: fx.Graph) -> None:
    """Replace `clamp(topk(x, k)[1], 0, n - 1)` by the indices: picked among n, they lie within these bounds anyway."""
    node: Any
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.clamp.default):
        indices, low, high = (*node.args, None, None)[:3]
        size = picked_among(indices)
        if size is None or isinstance(low, fx.Node) or isinstance(high, fx.Node):
            continue
        if (low is None or low <= 0) and (high is None or high >= size - 1):
            node.replace_all_uses_with(indices)


def picked_among(node: Any) -> int | None:
    """How many entries the indices in a tensor were picked among; None where they are no such indices."""
    name = opname(node)
    if name in _SAME_VALUES:
        return picked_among(node.args[0])
    if name in ("cat", "concat", "stack"):
        sizes = {picked_among(part) for part in node.args[0]}
        return sizes.pop() if len(sizes) == 1 else None
    if node.target is operator.getitem and node.args[1] == 1 and opname(node.args[0]) in _PICKS:
        node = node.args[0]
    elif name not in _PLACES:
        return None
    dim = (*node.args, *[-1] * 3)[_PICKS.get(opname(node), 1)]
    if not isinstance(dim, int) or (len(node.args) == 1 and name in ("argmax", "argmin")):
        return None  # places in the whole tensor
    size = node.args[0].meta["value"].shape[dim]
    return size if isinstance(size, int) else None
