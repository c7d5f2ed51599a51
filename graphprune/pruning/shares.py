"""Shares: how much every width is cut when all are cut together, each at its own rate."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy
from numpy.typing import NDArray
from torch import Tensor

from graphprune.analysis.groups import BLOCKS
from graphprune.budget.budgets import Width, free_widths, reachable_minimum
from graphprune.budget.solver import solve
from graphprune.pruning.blocks import block_step, in_order, is_blocks
from graphprune.pruning.interfaces import Allotment, Scene

Amounts = Sequence[NDArray[numpy.float64]]  # of each width, one for each step from a level to the next
_LARGEST = 0.99  # no group is asked for more than this share, as in the published code of Adapt-Pruner
_TINY = 1e-12  # where the rate is 0 any amount keeps the unit


def amounts(
    widths: Sequence[Width],
    scores: Mapping[str, Tensor],
    full: Mapping[str, int],
    rates: Mapping[str, float],
    carried: Mapping[str, float] | None = None,
) -> Amounts:
    """For each step of each width, the amount d up to which it stays: groups that share the width have their mean.

    A unit stays while the share that is kept, 1 - carried - d rate, is above the count that it starts from, of `full`
    units; groups without a rate have 1. Blocks go as the units of one group would, the lowest scores first.
    """
    ranks, carried = in_order(widths, scores), carried or {}
    return [
        block_step(width, 1 - ranks[place] / len(ranks)) if is_blocks(width) else steps(width, full, rates, carried)
        for place, width in enumerate(widths)
    ]


def steps(
    width: Width, full: Mapping[str, int], rates: Mapping[str, float], carried: Mapping[str, float]
) -> NDArray[numpy.float64]:
    starts = width.levels[:-1].astype(numpy.float64)
    each = [
        (1 - carried.get(g.id, 0.0) - starts / full.get(g.id, g.units)) / max(rates.get(g.id, 1.0), _TINY)
        for g in width.groups
    ]
    return numpy.asarray(numpy.mean(each, axis=0), dtype=numpy.float64)


def counts_at(widths: Sequence[Width], steps: Amounts, amount: float) -> dict[str, int]:
    """The count of each group when all are cut by an amount."""
    found: dict[str, int] = {}
    for width, values in zip(widths, steps, strict=True):
        found |= width.at(int((numpy.minimum.accumulate(values) > amount).sum()))
    return found


def refused(widths: Sequence[Width], steps: Amounts, counts: Mapping[str, int]) -> float:
    """The amount that was cut: the largest at which a step that was not taken would have been."""
    largest = 0.0
    for width, values in zip(widths, steps, strict=True):
        taken = int(numpy.searchsorted(width.levels, counts[width.groups[0].id]))
        if taken < len(values):
            largest = max(largest, float(values[taken]))
    return largest


def even_counts(scene: Scene, scores: Mapping[str, Tensor]) -> dict[str, int]:
    """The count of each candidate when all give up the same share, and the budget is filled with the next units.

    Scores are those of blocks, which go by them; others are not looked at.
    """
    widths = free_widths(scene.candidates, scene.budget)
    return solve(scene.groups, widths, amounts(widths, scores, {}, {}), scene.budget)


def cut_at_rates(scene: Scene, scores: Mapping[str, Tensor], rates: Mapping[str, float]) -> Allotment:
    """Cut every candidate by its rate times the one amount that meets the budget exactly; the memo has the shares.

    Shares are of the source's widths and are carried from round to round in the memo, so that a head goes when enough
    of a share has come together.
    """
    full = {g.id: scene.full(g) for g in scene.candidates}
    # A group that an earlier stage of another method has cut owes nothing for what is gone.
    gone = {g.id: 1 - g.units / full[g.id] for g in scene.candidates}
    carried = {g.id: float(scene.memo.get(scene.root(g.id), gone[g.id])) for g in scene.candidates}
    widths = free_widths(scene.candidates, scene.budget)
    steps = amounts(widths, scores, full, rates, carried)
    counts = solve(scene.groups, widths, steps, scene.budget)
    amount = refused(widths, steps, counts)
    memo = {}
    for group in scene.candidates:
        if group.kind in BLOCKS:
            continue
        share = carried[group.id] + amount * rates[group.id]
        least = min(levels[0] for levels in (w.levels for w in widths if group in w.groups)) / full[group.id]
        memo[scene.root(group.id)] = min(share, 1 - float(least), _LARGEST)
    return Allotment(counts, memo)


def within_reach(scene: Scene) -> Scene:
    """The scene with a target that its candidates reach by themselves, where more than these would have to go."""
    least = reachable_minimum(scene.groups, scene.candidates, scene.budget)
    return replace(scene, budget=replace(scene.budget, target=max(scene.budget.target, least)))
