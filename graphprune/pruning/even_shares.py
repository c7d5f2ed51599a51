"""Even shares: every candidate gives up the same share of its units, and the budget is filled with the next ones."""

from collections.abc import Mapping
from dataclasses import replace

import numpy
from numpy.typing import NDArray
from torch import Tensor

from graphprune.budget.budgets import Width, free_widths, reachable_minimum
from graphprune.budget.solver import solve
from graphprune.pruning.blocks import block_step, in_order, is_blocks
from graphprune.pruning.interfaces import Scene


def even_counts(scene: Scene, scores: Mapping[str, Tensor]) -> dict[str, int]:
    """The count of each candidate by its id. Scores are those of blocks, which go by them; others are not looked at."""
    widths = free_widths(scene.candidates, scene.budget)
    ranks = in_order(widths, scores)
    priorities = [shares(width, ranks.get(place, 0), len(ranks)) for place, width in enumerate(widths)]
    return solve(scene.groups, widths, priorities, scene.budget)


def within_reach(scene: Scene) -> Scene:
    """The scene with a target that its candidates reach by themselves, where more than these would have to go."""
    least = reachable_minimum(scene.groups, scene.candidates, scene.budget)
    return replace(scene, budget=replace(scene.budget, target=max(scene.budget.target, least)))


def shares(width: Width, rank: int, blocks: int) -> NDArray[numpy.float64]:
    """The priority of each step: it is taken as soon as the share kept is above the count that it starts from."""
    if is_blocks(width):
        return block_step(width, -rank / blocks)
    return numpy.divide(-width.levels[:-1], width.groups[0].units, dtype=numpy.float64)
