"""Uniform and global allocation on small cases whose answer is known, and the selection of units."""

import pytest
import torch
from torch import Tensor

from graphprune.analysis.cost import Costs, Polynomial
from graphprune.analysis.groups import Group, Groups, Kind
from graphprune.budget.budgets import Budget
from graphprune.errors import PlanError, UsageError
from graphprune.passes.allocation.global_ import Global
from graphprune.passes.allocation.uniform import Uniform
from graphprune.pruning.interfaces import Allocation, Scene
from graphprune.pruning.selection import select
from tests.support.tiny_llama import tiny_graph


def make(units: dict[str, tuple[int, int]], kinds: dict[str, Kind] | None = None) -> Groups:
    """Groups by id from (units, cost of a unit)."""
    groups = tuple(
        Group(i, n, (), (), (kinds or {}).get(i, "mlp"), "", None, False, None) for i, (n, _) in units.items()
    )
    cost, nothing = Polynomial({(i,): c for i, (_, c) in units.items()}), Polynomial({})
    return Groups(groups, (), Costs(cost, nothing, nothing, nothing))


def keep(allocation: Allocation, groups: Groups, scores: dict[str, list[float]], **budget: object) -> dict[str, int]:
    tensors = {id: torch.tensor(values) for id, values in scores.items()}
    made = Scene(tiny_graph(), groups, groups.groups, Budget(**budget))  # type: ignore[arg-type]
    return dict(allocation.keep(made, tensors).counts)


def test_uniform_keeps_the_same_share() -> None:
    groups = make({"a": (100, 1), "b": (50, 4), "c": (10, 7)})
    assert keep(Uniform(), groups, {}, target=370 * 6 // 10) == {"a": 60, "b": 30, "c": 6}


def test_uniform_rests_on_the_share_not_on_the_scores() -> None:
    groups = make({"a": (8, 5), "b": (8, 5)})
    assert keep(Uniform(), groups, {"a": [9.0] * 8, "b": [0.0] * 8}, target=42) == {"a": 4, "b": 4}
    assert keep(Uniform(), groups, {}, target=45) == {"a": 5, "b": 4}
    assert keep(Uniform(), groups, {}, target=45, uniform=True) == {"a": 4, "b": 4}


SCORES = {"a": [5.0, 1.0, 4.0, 8.0], "b": [2.0, 20.0, 6.0, 10.0]}


def test_global_removes_the_lowest_score_per_cost() -> None:
    groups = make({"a": (4, 1), "b": (4, 2)})
    # Per cost: a 5 1 4 8, b 1 10 3 5. Removing 1 (a) and 1 (b) and 3 (b) leaves 12 - 1 - 2 - 2 = 7.
    assert keep(Global(normalize="none"), groups, SCORES, target=7) == {"a": 3, "b": 2}
    # Per unit: the lowest are a's 1, then b's 2, a's 4 and a's 5.
    assert keep(Global(per="unit", normalize="none"), groups, SCORES, target=7) == {"a": 1, "b": 3}


def test_global_normalisation_removes_the_scale_of_a_kind_or_a_group() -> None:
    groups = make({"a": (4, 1), "b": (4, 1), "c": (4, 1)}, {"c": "residual"})
    scores = {"a": [4.0, 3.0, 2.0, 1.0], "b": [40.0, 30.0, 20.0, 10.0], "c": [400.0, 300.0, 200.0, 100.0]}
    assert keep(Global(normalize="none"), groups, scores, target=6) == {"a": 1, "b": 1, "c": 4}
    # Over the kind's mean of 13.75 and of 250: a .29 .., b 2.9 2.2 1.5 .73, c 1.6 1.2 .8 .4
    assert keep(Global(normalize="kind"), groups, scores, target=6) == {"a": 1, "b": 3, "c": 2}
    assert keep(Global(normalize="mean"), groups, scores, target=6) == {"a": 2, "b": 2, "c": 2}


def test_global_with_rounding_and_shared_widths() -> None:
    groups, plain = make({"a": (4, 1), "b": (4, 1), "c": (2, 3)}), Global(normalize="none")
    scores = {"a": [9.0, 9.0, 1.0, 1.0], "b": [9.0, 8.0, 1.0, 1.0], "c": [15.0, 6.0]}
    assert keep(plain, groups, scores, target=11, round_to=2) == {"a": 2, "b": 2, "c": 2}
    assert keep(plain, groups, scores, target=9, uniform=True) == {"a": 3, "b": 3, "c": 1}
    assert keep(plain, groups, scores, target=14) == {"a": 4, "b": 4, "c": 2}


def test_units_that_cost_nothing_stay() -> None:
    groups = make({"a": (4, 1), "b": (4, 0)})
    assert keep(Global(), groups, {"a": [9.0] * 4, "b": [0.0] * 4}, target=2) == {"a": 2, "b": 4}


def test_a_group_whose_scores_are_all_zero_goes_first() -> None:
    groups = make({"a": (4, 1), "b": (4, 1)})
    assert keep(Global(), groups, {"a": [0.0] * 4, "b": [1.0, 2.0, 3.0, 4.0]}, target=5) == {"a": 1, "b": 4}


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UsageError, match="per=cost"):
        Global(per="layer")  # type: ignore[arg-type]


def scores(*values: float) -> dict[str, Tensor]:
    return {"a": torch.tensor(values)}


def test_selection_keeps_the_best_in_order_and_the_first_of_equals() -> None:
    groups = make({"a": (5, 1), "b": (3, 1)})
    plan = select(groups, {"a": 3, "b": 3}, scores(1.0, 7.0, 1.0, 9.0, 1.0))
    assert plan.keep == {"a": (0, 1, 3)}
    assert select(groups, {"a": 2}, scores(*[0.0] * 5)).keep == {"a": (0, 1)}


def test_selection_refuses_what_does_not_fit() -> None:
    groups = make({"a": (3, 1)})
    with pytest.raises(PlanError, match="cannot keep 4"):
        select(groups, {"a": 4}, scores(1.0, 2.0, 3.0))
    with pytest.raises(PlanError, match="cannot keep 0"):
        select(groups, {"a": 0}, scores(1.0, 2.0, 3.0))
    with pytest.raises(PlanError, match="scores of shape"):
        select(groups, {"a": 2}, scores(1.0, 2.0))
    with pytest.raises(PlanError, match="not numbers"):
        select(groups, {"a": 2}, scores(1.0, float("nan"), 2.0))
    with pytest.raises(PlanError, match="not numbers"):
        keep(Global(), groups, {"a": [1.0, float("nan"), 2.0]}, target=2)


def test_zscore_ranks_by_the_place_of_a_score_among_those_of_its_group() -> None:
    groups = make({"a": (4, 1), "b": (4, 3), "c": (3, 1)})
    scores = {"a": [4.0, 3.0, 2.0, 1.0], "b": [400.0, 30.0, 20.0, 10.0], "c": [7.0, 7.0, 7.0]}
    # z of a: 1.16 .39 -.39 -1.16, of b: 1.49 -.44 -.50 -.55, of c, all alike: 0. The lowest go: a's 1 and b's 10.
    for per in ("cost", "unit"):  # what a unit costs counts for the budget alone
        assert keep(Global(per, "zscore"), groups, scores, target=15) == {"a": 3, "b": 3, "c": 3}  # type: ignore[arg-type]
    assert keep(Global(normalize="zscore"), groups, scores, target=12) == {"a": 3, "b": 2, "c": 3}


def test_over_kind_keeps_the_same_share_of_each_kind_and_the_best_of_it() -> None:
    """FLAP's AL-MM: 6 of 10 heads and 12 of 20 channels, wherever they are, however the kinds' scores compare."""
    kinds: dict[str, Kind] = {"h1": "attention", "h2": "attention", "c1": "mlp", "c2": "mlp"}
    groups = make({"h1": (5, 40), "h2": (5, 40), "c1": (10, 3), "c2": (10, 3)}, kinds)
    chance = torch.Generator().manual_seed(0)
    scores = {id: torch.rand(groups[id].units, generator=chance) * (1000 if id[0] == "h" else 1) for id in kinds}
    method = Global(per="unit", normalize="none", over="kind")
    kept = keep(method, groups, {id: s.tolist() for id, s in scores.items()}, target=6 * 40 + 12 * 3)
    assert kept["h1"] + kept["h2"] == 6
    assert kept["c1"] + kept["c2"] == 12
    for one, other in (("h1", "h2"), ("c1", "c2")):
        least = torch.cat([scores[one], scores[other]]).sort(descending=True).values[kept[one] + kept[other] - 1]
        assert [int((scores[id] >= least).sum()) for id in (one, other)] == [kept[one], kept[other]]


def test_scores_that_are_all_alike_are_no_reason_to_fail() -> None:
    groups = make({"a": (4, 1), "b": (1, 1)})
    assert keep(Global(normalize="zscore"), groups, {"a": [0.0] * 4, "b": [0.0]}, target=3) == {"a": 2, "b": 1}
