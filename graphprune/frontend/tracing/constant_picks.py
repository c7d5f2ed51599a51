"""Picks by constants: at capture, a pick of places one after the other becomes a slice, which splits its axis."""

from typing import Any

import torch
from torch import Tensor, fx

from graphprune.frontend.tracing.draft import Draft


def picks_to_slices(draft: Draft) -> int:
    """Replace `x[:, [4, 5]]` by `x[:, 4:6]`; how many were replaced."""
    replaced = 0
    for node in draft.graph.find_nodes(op="call_function", target=torch.ops.aten.index.Tensor):
        cut = as_slice(node, draft.tensors)
        if cut is None:
            continue
        with draft.graph.inserting_before(node):
            new = draft.graph.call_function(torch.ops.aten.slice.Tensor, cut)
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        replaced += 1
    return replaced


def as_slice(node: fx.Node, tensors: dict[str, Tensor]) -> tuple[fx.Node, int, int, int] | None:
    """The operand, dimension, start and end of the slice that a pick is; None where it is none."""
    source: Any
    picks: Any
    source, picks = node.args
    chosen = [(dim, pick) for dim, pick in enumerate(picks) if pick is not None]
    if len(chosen) != 1 or chosen[0][1].op != "get_attr":
        return None
    dim, pick = chosen[0]
    indices, size = tensors[str(pick.target)], source.meta["value"].shape[dim]
    if indices.ndim != 1 or indices.dtype == torch.bool or not isinstance(size, int) or not len(indices):
        return None
    start = int(indices[0]) % size
    if not torch.equal(indices % size, torch.arange(start, start + len(indices))):
        return None
    return source, dim, start, start + len(indices)
