"""Blocks: residual branches and whole layers as candidates of one unit, which a plan drops."""

from collections.abc import Mapping, Sequence

import numpy
from numpy.typing import NDArray
from torch import Tensor

from graphprune.analysis.groups import BLOCKS, Branch, Group, Groups, Kind
from graphprune.analysis.layers import find_layers
from graphprune.budget.budgets import Width
from graphprune.errors import UsageError


def find_blocks(groups: Groups, kinds: Sequence[str]) -> tuple[Group, ...]:
    """The residual branches as groups, where `kinds` has `blocks` or `layers`: those of one layer go together.

    Raises UsageError for a model without any.
    """
    chosen = [kind for kind in ("blocks", "layers") if kind in kinds]
    if not chosen:
        return ()
    if len(chosen) > 1:
        raise UsageError("--prune blocks,layers: name one of them; blocks are residual branches, one by one")
    if not groups.branches:
        raise UsageError(f"--prune {chosen[0]}: no residual branch was found in this model")
    if chosen == ["blocks"]:
        return tuple(block(branch, "blocks", None) for branch in groups.branches)
    return tuple(block(branch, "layers", layer[0].id) for layer in find_layers(groups) for branch in layer)


def block(branch: Branch, kind: Kind, tie: str | None) -> Group:
    return Group(branch.id, 1, (), (), kind, branch.id, branch.id, averaged=False, locked=None, least=0, tie=tie)


def is_blocks(width: Width) -> bool:
    """Whether a free width is a residual branch or a layer."""
    return width.groups[0].kind in BLOCKS


def in_order(widths: Sequence[Width], scores: Mapping[str, Tensor]) -> Mapping[int, int]:
    """The place of every block among all blocks, by falling score: place in `widths` -> 0 for the best.

    So an allocation that gives shares can take the blocks of a model for the units of one group.
    """
    found = [place for place, width in enumerate(widths) if is_blocks(width)]
    falling = sorted(found, key=lambda place: (-block_score(widths[place], scores), place))
    return {place: rank for rank, place in enumerate(falling)}


def block_score(width: Width, scores: Mapping[str, Tensor]) -> float:
    return float(sum(float(scores[group.id]) for group in width.groups)) / len(width.groups)


def block_step(width: Width, value: float) -> NDArray[numpy.float64]:
    """The priority of keeping a block, none where it may not go."""
    return numpy.full(len(width.levels) - 1, value, dtype=numpy.float64)


def describe_dropped(dropped: Sequence[str], groups: Groups) -> tuple[str, ...]:
    """A note on the blocks that went, of those that there were."""
    return (f"dropped {len(dropped)} of {len(groups.branches)} residual branches: {', '.join(dropped) or 'none'}",)
