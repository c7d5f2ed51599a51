"""Blocks as candidates: one unit each, the branches of a layer tied, and their order by score."""

import pytest
import torch

from graphprune.analysis.layers import find_layers
from graphprune.budget.budgets import Budget, free_widths
from graphprune.errors import UsageError
from graphprune.pruning.blocks import block_score, describe_dropped, find_blocks, in_order, is_blocks
from tests.support.families import analysis

pytestmark = pytest.mark.xdist_group("llama")


def test_branches_and_layers_are_groups_of_one_unit() -> None:
    groups = analysis("llama").groups
    single, tied = find_blocks(groups, ("mlp", "blocks")), find_blocks(groups, ("layers",))
    assert [block.id for block in single] == [block.id for block in tied] == [b.id for b in groups.branches]
    assert all((block.units, block.least, block.slots, block.tie) == (1, 0, (), None) for block in single)
    assert [block.tie for block in tied] == [layer[0].id for layer in find_layers(groups) for _ in layer]
    assert find_blocks(groups, ("mlp",)) == ()
    with pytest.raises(UsageError, match="name one of them"):
        find_blocks(groups, ("blocks", "layers"))


def test_a_layer_is_one_free_width_that_is_there_or_not() -> None:
    groups = analysis("llama").groups
    widths = free_widths(find_blocks(groups, ("layers",)), Budget(1, min_units=4, floor=0.5, round_to=8))
    assert [len(width.groups) for width in widths] == [len(layer) for layer in find_layers(groups)]
    assert all(width.levels.tolist() == [0, 1] and is_blocks(width) for width in widths)


def test_the_order_of_blocks_is_that_of_their_scores() -> None:
    groups = analysis("llama").groups
    blocks = find_blocks(groups, ("blocks",))
    mlp = groups.prunable(frozenset({"mlp"}))
    widths = free_widths((*mlp, *blocks), Budget(1))
    scores = {block.id: torch.tensor([value]) for block, value in zip(blocks, (3.0, 1.0, 2.0, 1.0), strict=True)}
    order = in_order(widths, scores)
    assert [order[place + len(mlp)] for place in range(4)] == [0, 2, 1, 3]
    assert block_score(widths[-1], scores) == 1.0
    assert describe_dropped(("a",), groups) == ("dropped 1 of 4 residual branches: a",)
