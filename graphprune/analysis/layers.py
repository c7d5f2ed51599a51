"""Layers: which residual branches make one block of the model."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from graphprune.analysis.groups import Branch, Groups

_HEADS = frozenset({"attention", "query", "head_dim"})


def find_layers(groups: Groups) -> tuple[tuple[Branch, ...], ...]:
    """Consecutive residual branches, in graph order: a layer begins at each branch that holds attention heads.

    Branches of one addition (parallel attention and MLP) belong together; models without attention have one branch a
    layer. Found from the axes, not from names.
    """
    heads = {group.block for group in groups.groups if group.kind in _HEADS}
    sums = [tuple(members) for _, members in groupby(groups.branches, key=lambda branch: branch.add)]
    layers: list[tuple[Branch, ...]] = []
    for members in sums:
        begins = any(branch.id in heads for branch in members)
        if begins or not heads or not layers:
            layers.append(members)
        else:
            layers[-1] = (*layers[-1], *members)
    return tuple(layers)


def by_branch(layers: Sequence[Sequence[Branch]], values: Sequence[float]) -> Mapping[str, float]:
    """The value of its layer for each branch's id."""
    return {branch.id: value for layer, value in zip(layers, values, strict=True) for branch in layer}
