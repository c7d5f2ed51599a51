"""Idle clamps: at capture, bounds on places that were picked among so many anyway are left out.

So the places stay those of an axis, as transformers bounds the experts that a router picked.
"""

import operator
from typing import Any

import torch
from torch import fx

from graphprune.frontend.tracing.draft import Draft
from graphprune.ir.operators import opname

# Calls whose results hold some of the values of their first argument, and no others.
_SAME_VALUES = {"view", "reshape", "slice", "select", "squeeze", "unsqueeze", "expand", "permute", "transpose", "clone"}
# Calls that give values and their places, with where they name the dimension, and calls that give places alone.
_PICKS = {"topk": 2, "max": 1, "min": 1, "sort": 1, "kthvalue": 2}
_PLACES = {"argmax", "argmin", "argsort"}


def drop_idle_clamps(draft: Draft) -> int:
    """Replace `clamp(topk(x, k)[1], 0, n - 1)` by the places among n; how many were replaced."""
    replaced = 0
    for node in draft.graph.find_nodes(op="call_function", target=torch.ops.aten.clamp.default):
        indices, low, high = (*node.args, None, None)[:3]
        size = picked_among(indices)
        if size is None or isinstance(low, fx.Node) or isinstance(high, fx.Node):
            continue
        if (low is None or low <= 0) and (high is None or high >= size - 1):
            node.replace_all_uses_with(indices)
            replaced += 1
    return replaced


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
