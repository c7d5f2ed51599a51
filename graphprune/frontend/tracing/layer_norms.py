"""Norms written out: at capture, a layer norm in its parts becomes the one operator that it is.

As `layer_norm` its statistics stay exact where units are cut, which in parts they cannot: the mean of the squares of
`x - mean` counts a removed unit, which is not zero there. Runtimes are faster with it, too.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from graphprune.frontend.tracing.draft import Draft
from graphprune.ir.operators import opname

_aten = torch.ops.aten


def fuse_layer_norms(draft: Draft) -> int:
    """Replace `(x - mean(x)) * rsqrt(mean((x - mean(x))^2) + eps)` over the last dimension, or what divides instead.

    Returns how many there were.
    """
    graph, fused = draft.graph, 0
    for node in list(graph.nodes):
        found = next(read_layer_norm(node), None)
        if found is None:
            continue
        x, eps = found
        size = x.meta["value"].shape[-1]
        if not isinstance(size, int) or x.meta["value"] != node.meta["value"]:
            continue
        with graph.inserting_before(node):
            norm = graph.call_function(_aten.layer_norm.default, (x, [size], None, None, eps))
        norm.meta = dict(node.meta)
        node.replace_all_uses_with(norm)
        fused += 1
    return fused


def read_layer_norm(node: fx.Node) -> Iterator[tuple[fx.Node, float]]:
    """The input and the epsilon, if this node is the last of a layer norm."""
    if is_call(node, "mul"):
        pairs = [node.args, node.args[::-1]]
        roots = [(centred, read_inverse_root(root)) for centred, root in pairs]
    elif is_call(node, "div"):
        roots = [(node.args[0], read_call(node.args[1], "sqrt"))]
    else:
        return
    for centred, shifted in roots:
        x = read_centred(centred)
        parts = read_shift(shifted)
        if x is not None and parts is not None and read_variance(parts[0]) is x:
            yield x, parts[1]


def read_inverse_root(node: Any) -> Any:
    """What rsqrt, or one over sqrt, is taken of."""
    inner = read_call(node, "reciprocal")
    return read_call(node, "rsqrt") if inner is None else read_call(inner, "sqrt")


def read_shift(node: Any) -> tuple[fx.Node, float] | None:
    """A value and the number that is added to it."""
    if not is_call(node, "add") or not isinstance(node.args[1], (int, float)) or node.kwargs:
        return None
    return node.args[0], float(node.args[1])


def read_variance(node: Any) -> Any:
    """What the mean of squares around the mean is taken of."""
    square = read_mean(node)
    if is_call(square, "pow") and square.args[1] == 2:
        return read_centred(square.args[0])
    if is_call(square, "mul"):
        left, right = map(read_centred, square.args)
        return left if left is right else None
    inner = read_call(square, "square")
    return None if inner is None else read_centred(inner)


def read_centred(node: Any) -> Any:
    """The x of `x - mean(x)`."""
    if not is_call(node, "sub") or node.kwargs:
        return None
    x, mean = node.args
    return x if read_mean(mean) is x else None


def read_mean(node: Any) -> Any:
    """What a mean over the last dimension, which stays with size one, is taken of."""
    if not is_call(node, "mean") or node.kwargs.get("dtype") is not None or len(node.args) < 3 or not node.args[2]:
        return None
    rank = len(node.args[0].meta["value"].shape)
    return node.args[0] if list(node.args[1]) in ([-1], [rank - 1]) else None


def read_call(node: Any, name: str) -> Any:
    """The first operand of a call of this name, or None."""
    return node.args[0] if is_call(node, name) else None


def is_call(node: Any, name: str) -> bool:
    return isinstance(node, fx.Node) and opname(node) == name
