"""What shares cost, and the nearest ones that the budget allows."""

import numpy
import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.analysis.cost import Polynomial
from graphprune.budget.budgets import Budget
from graphprune.pruning.interfaces import view
from graphprune.pruning.policy.bundles import Bundles, Numbers, Run, tie_up
from graphprune.pruning.policy.spending import Spending, first_shares, project, spending
from tests.support.families import families, graph


def weighted(costs: Numbers, limit: int) -> Spending:
    """One candidate for each bundle, which cost these whole numbers."""
    names = [f"g{place}" for place in range(len(costs))]
    owner = {name: torch.tensor([place]) for place, name in enumerate(names)}
    bundles = Bundles(owner, numpy.ones(len(costs)), tuple(Run(slice(p, p + 1), 0) for p in range(len(costs))))
    cost = Polynomial({(name,): int(each) for name, each in zip(names, costs, strict=True)})
    return Spending(bundles, cost, dict.fromkeys(names, 1), limit)


def by_bisection(shares: Numbers, costs: Numbers, limit: float) -> Numbers:
    """An independent reference: the multiplier of the budget, halved again and again."""
    if costs @ shares.clip(0, 1) <= limit:
        return shares.clip(0, 1)
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if costs @ (shares - middle * costs).clip(0, 1) <= limit else (middle, high)
    return (shares - high * costs).clip(0, 1)


def test_a_thousand_projections_are_nearest_and_stay_when_projected_again() -> None:
    chance = numpy.random.default_rng(0)
    for _ in range(1000):
        size = int(chance.integers(1, 60))
        costs = chance.integers(1, 50, size).astype(numpy.float64)
        shares = chance.normal(0.5, chance.choice([0.1, 1.0, 10.0]), size)
        spent = weighted(costs, limit := int(chance.integers(1, int(costs.sum()) + 2)))
        found = project(shares, spent)
        numpy.testing.assert_allclose(found, by_bisection(shares, costs, limit), atol=1e-9)
        assert ((found >= 0) & (found <= 1)).all()
        assert costs @ found <= limit
        assert (project(found, spent) == found).all()
        # Karush, Kuhn and Tucker: what is neither 0 nor 1 gave up in proportion to its cost, what is 0 would have
        # given up more, what is 1 less; and nothing is given up where there is room.
        given = (shares - found) / costs
        free = (found > 1e-9) & (found < 1 - 1e-9)
        amount = given[free].mean() if free.any() else max(0.0, given[found > 0.5].max(initial=0.0))
        numpy.testing.assert_allclose(given[free], amount, atol=1e-8)
        assert (given[found <= 1e-9] <= amount + 1e-8).all() or not free.any()
        assert (given[found >= 1 - 1e-9] * -1 <= -amount + 1e-8).all() or not free.any()
        assert costs @ found >= limit - 1e-6 or abs(found - shares.clip(0, 1)).max() == 0


def test_margins_hold_where_the_budget_allows_them() -> None:
    costs = numpy.arange(1.0, 11)
    found = project(numpy.linspace(-1, 3, 10), weighted(costs, 30), 0.05)
    assert found.min() == 0.05
    assert found.max() <= 0.95
    assert costs @ found <= 30
    assert project(numpy.ones(10), weighted(costs, 1), 0.05).min() < 0.05, "a tenth of that is too dear"


def scene_of(name: str, kinds: tuple[str, ...], share: float) -> tuple[Spending, Bundles]:
    source = graph(name)
    groups = [group for group in analyze(source).prunable() if group.kind in kinds]
    scene = view(source, groups, budget=Budget(int(share * source.parameter_count())))
    bundles = tie_up(groups, {group.id: torch.arange(group.units).float() for group in groups}, 8)
    return spending(scene, bundles), bundles


@pytest.mark.parametrize("name", families(("llama", "gpt2", "mixtral")))
def test_costs_are_those_of_the_model(name: str) -> None:
    spent, bundles = scene_of(name, ("mlp", "attention"), 0.7)
    whole = numpy.ones(len(bundles))
    assert spent(whole) == pytest.approx(graph(name).parameter_count())
    assert spent.adds_up
    chance = numpy.random.default_rng(0)
    for _ in range(5):
        mask = (chance.random(len(bundles)) < 0.5).astype(numpy.float64)
        counts = {id: int(value.sum()) for id, value in bundles.spread(mask).items()}
        groups = analyze(graph(name))
        assert spent(mask) == pytest.approx(groups.costs.parameters({**groups.sizes(), **counts}))


@pytest.mark.xdist_group("llama")
def test_costs_that_multiply_each_other_stay_within_the_limit_too() -> None:
    spent, bundles = scene_of("llama", ("mlp", "attention", "residual"), 0.6)
    assert not spent.adds_up
    chance = numpy.random.default_rng(1)
    for _ in range(50):
        found = project(chance.normal(0.7, 0.5, len(bundles)), spent)
        assert spent(found) <= spent.limit
        assert (project(found, spent) == found).all()


@pytest.mark.xdist_group("llama")
def test_first_shares_rise_with_scores_and_meet_the_budget() -> None:
    spent, bundles = scene_of("llama", ("mlp", "attention"), 0.8)
    scores = numpy.random.default_rng(2).standard_normal(len(bundles))
    found = first_shares(scores, spent)
    assert spent(found) == pytest.approx(spent.limit, rel=1e-6)
    assert spent(found) <= spent.limit
    order = numpy.argsort(scores)
    assert (numpy.diff(found[order]) >= 0).all()
    assert first_shares(scores * 0, spent).std() < 1e-9
