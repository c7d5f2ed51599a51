"""Removal: the least salient step for what it saves goes first, ties and multiples go together, the end is near."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from graphprune.budget.budgets import Budget, cost_of, free_widths
from graphprune.training.shrinking.removal import Course, choose_steps
from tests.support.tiny_llama import tiny_groups

GROUPS = tiny_groups()
COST = cost_of(GROUPS, Budget(1))(GROUPS.sizes())
HEAD, CHANNEL = 768, 96


def course(**options: Any) -> Course:
    budget = Budget(1, **options)
    return Course(free_widths(GROUPS.prunable(), budget), cost_of(GROUPS, budget), GROUPS.sizes())


def all_live() -> dict[str, Tensor]:
    return {g.id: torch.ones(g.units, dtype=torch.bool) for g in GROUPS.prunable()}


def drawn(seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    scale = {"attention": HEAD, "mlp": CHANNEL}
    return {g.id: torch.rand(g.units, generator=draw).double() * scale[g.kind] for g in GROUPS.prunable()}


def by_hand(saliency: Mapping[str, Tensor], aim: int, target: int) -> list[tuple[str, int]]:
    """One unit after the other: the least mean per parameter of those that still fit above the target."""
    saves = {g.id: HEAD if g.kind == "attention" else CHANNEL for g in GROUPS.prunable()}
    left = {id: dict(enumerate(values.tolist())) for id, values in saliency.items()}
    now, gone = COST, list[tuple[str, int]]()
    while now > aim:
        units = [(v / saves[id], id, u) for id, each in left.items() if len(each) > 1 for u, v in each.items()]
        fit = [each for each in units if saves[each[1]] <= now - target]
        smallest = [each for each in units if saves[each[1]] == min(saves[id] for _, id, _ in units)]
        _, id, unit = min(fit or smallest)
        now -= saves[id]
        gone.append((id, unit))
        del left[id][unit]
    return gone


@pytest.mark.parametrize("seed", range(4))
def test_steps_are_those_of_a_few_lines_by_hand(seed: int) -> None:
    saliency, target = drawn(seed), COST // 2
    found = choose_steps(course(), all_live(), saliency, target, target)
    assert [(id, u) for step in found for id, units in step.units.items() for u in units] == by_hand(
        saliency, target, target
    )
    end = COST - sum(step.saved for step in found)
    assert target - CHANNEL < end <= target


def test_what_is_gone_does_not_go_again_and_nothing_goes_below_its_least() -> None:
    live, saliency = all_live(), drawn(1)
    for step in choose_steps(course(), live, saliency, COST - 1000, 1):
        for id, units in step.units.items():
            assert bool(live[id][list(units)].all())
            live[id][list(units)] = False
    again = choose_steps(course(), live, saliency, 1, 1)
    assert all(bool(live[id][list(units)].all()) for step in again for id, units in step.units.items())
    for step in again:
        for id, units in step.units.items():
            live[id][list(units)] = False
    assert {int(mask.sum()) for mask in live.values()} == {1}


def test_a_large_unit_waits_near_the_target_and_goes_where_there_is_no_other() -> None:
    saliency = {id: values * (0.0 if "heads" in id else 1.0) for id, values in drawn(2).items()}
    (step,) = choose_steps(course(), all_live(), saliency, COST - 50, COST - 50)
    assert (step.kind, step.saved) == ("mlp", CHANNEL)
    heads = {id: values for id, values in saliency.items() if "heads" in id}
    only = Course(tuple(w for w in course().widths if w.groups[0].id in heads), course().cost, course().sizes)
    (step,) = choose_steps(only, {id: all_live()[id] for id in heads}, heads, COST - 50, COST - 50)
    assert step.saved == HEAD


def test_equal_widths_and_multiples_go_together() -> None:
    steps = choose_steps(course(uniform=True, round_to=8), all_live(), drawn(3), COST * 2 // 3, COST * 2 // 3)
    channels = [step for step in steps if step.kind == "mlp"]
    assert channels
    assert all(len(step.units) == 2 and {len(units) for units in step.units.values()} == {8} for step in channels)
    assert all(step.saved == 16 * CHANNEL for step in channels)


def test_what_saves_nothing_stays() -> None:
    nothing = Course(course().widths, cost_of(GROUPS, Budget(1)) * 0, GROUPS.sizes())
    assert choose_steps(nothing, all_live(), drawn(0), -1, -1) == []
