"""Knapsack allocation: the best counts for measured losses, against enumeration; the budget, the measurements."""

import itertools
from dataclasses import replace

import numpy
import pytest
import torch
from torch import Tensor

from graphprune.analysis.cost import Polynomial
from graphprune.analysis.groups import Group
from graphprune.budget.budgets import Budget, Width, free_widths
from graphprune.budget.clusters import find_clusters
from graphprune.budget.knapsack import Item, pack
from graphprune.errors import BudgetError, UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.passes.allocation.knapsack import Knapsack, choose, first_rows, rank, thin
from graphprune.passes.compensation.least_squares import LeastSquares
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.pruning.interfaces import Scene, view
from graphprune.pruning.rounds import Request, prune
from graphprune.pruning.selection import select
from graphprune.pruning.signals.loss_curves import CutLoss, interpolate, measure_curves, saturate, solve_kept
from graphprune.rewriting.apply import apply
from graphprune.running.loss import next_token_loss
from tests.support.families import analysis, graph

_rows = torch.randint(3, 60, (16, 12), generator=torch.Generator().manual_seed(0))
BATCHES = tuple(_rows.split(4))


def total(items: list[Item], at: tuple[int, ...]) -> tuple[int, float]:
    pairs = list(zip(items, at, strict=True))
    return sum(int(i.costs[k]) for i, k in pairs), sum(float(i.values[k]) for i, k in pairs)


@pytest.mark.parametrize("seed", range(20))
def test_the_knapsack_against_enumeration(seed: int) -> None:
    """Where the room has fewer units than cells, no combination is better."""
    chance = numpy.random.default_rng(seed)
    items = [Item(chance.integers(0, 30, n), chance.random(n)) for n in chance.integers(1, 5, 5)]
    room = int(chance.integers(0, 90))
    found = pack(items, room, 1000)
    each = itertools.product(*(range(len(item.costs)) for item in items))
    sums = {at: total(items, at) for at in each}
    fitting = {at: value for at, (cost, value) in sums.items() if cost <= room}
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert sums[found[0]][0] <= room
    assert found[1] == pytest.approx(min(fitting.values()))
    assert sums[found[0]][1] == pytest.approx(found[1])


def test_a_coarse_grid_still_fits_and_is_near() -> None:
    chance = numpy.random.default_rng(0)
    items = [Item(numpy.arange(50) * int(c), numpy.linspace(1, 0, 50) ** 2 * c) for c in chance.integers(900, 1100, 12)]
    exact, coarse = pack(items, 300_000, 10**6), pack(items, 300_000, 500)
    assert exact is not None
    assert coarse is not None
    assert total(items, coarse[0])[0] <= 300_000
    assert exact[1] <= coarse[1] <= 1.05 * exact[1]


def widths(units: dict[str, int]) -> tuple[Width, ...]:
    groups = [Group(i, n, (), (), "other", "", None, False, None) for i, n in units.items()]
    return tuple(Width((g,), numpy.arange(1, g.units + 1)) for g in groups)


COSTS = {
    "separate": Polynomial({(): 3, ("a",): 2, ("b",): 3, ("c",): 5, ("r",): 1}),
    "hub": Polynomial({("r",): 4, ("a", "r"): 2, ("b", "r"): 3, ("c", "r"): 1, ("c",): 2}),
    "part": Polynomial({("a", "b"): 3, ("c", "r"): 2, ("b",): 1}),
    "square": Polynomial({("r", "r"): 1, ("a", "r"): 2, ("b", "r"): 1, ("c", "r"): 1}),
}


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("seed", range(4))
def test_choice_against_enumeration(name: str, seed: int) -> None:
    """Costs that add up, that one width multiplies, and that multiply in pairs."""
    chance, cost = numpy.random.default_rng(seed), COSTS[name]
    free = widths({"a": 4, "b": 5, "c": 3, "r": 4})
    curves = [numpy.append(numpy.sort(chance.random(len(w.levels) - 1))[::-1], 0.0) for w in free]
    sizes = {w.groups[0].id: w.groups[0].units for w in free}
    target = int(cost(sizes) * chance.uniform(0.4, 0.9))
    chosen = choose(cost, sizes, free, curves, target)

    def value(at: tuple[int, ...]) -> float:
        return float(sum(curve[level] for curve, level in zip(curves, at, strict=True)))

    def price(at: tuple[int, ...]) -> int:
        return cost({w.groups[0].id: int(w.levels[level]) for w, level in zip(free, at, strict=True)})

    every = itertools.product(*(range(len(w.levels)) for w in free))
    best = min(value(at) for at in every if price(at) <= target)
    assert price(tuple(chosen)) <= target
    assert value(tuple(chosen)) == pytest.approx(best)
    for values, level in zip(rank(cost, sizes, free, curves, chosen), chosen, strict=True):
        assert (values[:level] > 1).all()  # the choice comes before all else
        assert (values[level:] < 1 + value((0, 0, 0, 0))).all()


def test_clusters_of_a_transformer() -> None:
    """The residual width multiplies everything; without it the layers are free of each other."""
    groups = analysis("llama").groups
    free = free_widths(groups.prunable(frozenset({"mlp", "attention", "residual"})), Budget(1))
    found = find_clusters(groups.costs.parameters, free)
    assert [free[w].groups[0].kind for w in found.hubs] == ["residual"]
    assert all(len(part) == 1 for part in found.parts)
    assert sorted([*found.hubs, *(w for part in found.parts for w in part)]) == list(range(len(free)))


def test_interpolated_curves_never_fall_as_units_go() -> None:
    levels, places = numpy.array([4, 8, 12, 16, 20]), numpy.array([0, 2, 4])
    assert interpolate(levels, places, [3.0, 1.0, 0.0]).tolist() == [3.0, 2.0, 1.0, 0.5, 0.0]
    assert interpolate(levels, places, [0.5, 1.0, 0.0]).tolist() == [1.0, 1.0, 1.0, 0.5, 0.0]
    assert interpolate(levels, places, [-1.0, -2.0, 0.0]).tolist() == [0.0] * 5


def test_rises_saturate() -> None:
    """What two cuts do together: the shares of the ceiling that each leaves are multiplied."""
    assert saturate(numpy.array([0.0, 1e-9]), 2.0) == pytest.approx([0.0, 1e-9])
    assert numpy.isfinite(saturate(numpy.array([2.0, 50.0]), 2.0)).all()
    rises = numpy.array([0.5, 1.0])
    together = 2.0 * (1 - numpy.prod(1 - rises / 2.0))
    assert saturate(numpy.array([together]), 2.0)[0] == pytest.approx(saturate(rises, 2.0).sum())
    assert together < rises.sum()


def test_thinned_levels() -> None:
    assert thin(3, 64) == [0, 1, 2]
    assert thin(1000, 3) == [0, 500, 999] or thin(1000, 3) == [0, 499, 999]


def test_the_solved_weight_is_the_least_squares_answer() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=generator, dtype=torch.float64) @ torch.randn(6, 6, generator=generator).double()
    weight, kept = torch.randn(3, 6, generator=generator, dtype=torch.float64), torch.tensor([1, 1, 0, 1, 0, 1]) > 0
    solved = solve_kept(weight, x.T @ x / len(x), kept, 0.0)
    wanted = torch.linalg.lstsq(x[:, kept], x @ weight.T).solution.T
    torch.testing.assert_close(solved[:, kept], wanted, atol=1e-4, rtol=1e-4)
    assert not solved[:, ~kept].any()


def make_round(
    share: float, kinds: tuple[str, ...] = ("mlp", "attention", "residual"), **budget: object
) -> tuple[Scene, dict[str, Tensor]]:
    source, groups = graph("llama"), analysis("llama").groups
    candidates = groups.prunable(frozenset(kinds))
    scores = Magnitude().score(view(source, candidates))
    limits = Budget(int(share * source.parameter_count()), **budget)  # type: ignore[arg-type]
    return Scene(source, groups, candidates, limits, BATCHES), scores


def mean_loss(model: Graph) -> float:
    with torch.no_grad():
        return sum(float(next_token_loss(model, batch)) for batch in BATCHES) / len(BATCHES)


@pytest.mark.xdist_group("llama")
@pytest.mark.parametrize("kind", ["mlp", "attention"])
def test_a_measurement_is_the_loss_of_the_cut_and_compensated_model(kind: str) -> None:
    """Masking with solved weights gives what rewriting and least squares give; without them, what rewriting gives."""
    round, scores = make_round(0.8, (kind,))
    group = round.candidates[-1]
    counts = {group.id: max(1, group.units // 2)}
    cut = apply(graph("llama"), select(round.groups, counts, scores))
    for repair in (None, LeastSquares(damping=0.01)):
        whole = repair.compensate(graph("llama"), cut, view(graph("llama"), (), BATCHES)) if repair else cut
        wanted = mean_loss(whole)
        found = CutLoss(graph("llama"), BATCHES, BATCHES, scores, None, repair).measure(counts)
        assert found == pytest.approx(wanted, abs=1e-4)


@pytest.mark.xdist_group("llama")
def test_curves_of_a_width_that_a_norm_runs_over() -> None:
    round, scores = make_round(0.8, ("residual",))
    (width,) = free_widths(round.candidates, round.budget)
    (curve,) = measure_curves(CutLoss(graph("llama"), BATCHES, BATCHES, scores), [width], 2)
    cut = apply(graph("llama"), select(round.groups, width.at(0), scores))
    assert curve[0] >= mean_loss(cut) - mean_loss(graph("llama")) - 1e-5
    assert curve[-1] == 0
    assert (numpy.diff(curve) <= 0).all()


@pytest.mark.xdist_group("llama")
@pytest.mark.parametrize(
    ("share", "options", "limits"),
    [
        (0.85, "", {}),
        (0.6, "", {}),
        (0.7, "plain", {}),
        (0.7, "joint", {}),
        (0.7, "", {"round_to": 4}),
        (0.7, "", {"uniform": True}),
    ],
)
def test_the_budget_is_met_within_one_unit(share: float, options: str, limits: dict[str, object]) -> None:
    round, scores = make_round(share, **limits)
    allocation = Knapsack(levels=2, samples=4, compensated=options != "plain", joint=options == "joint")
    counts = dict(allocation.keep(round, scores).counts)
    sizes = {**round.groups.sizes(), **counts}
    cost = round.groups.costs.parameters
    assert cost(sizes) <= round.budget.target
    for width in free_widths(round.candidates, round.budget):
        wider = [n for n in width.levels if n > counts[width.groups[0].id]]
        assert all(counts[g.id] == counts[width.groups[0].id] in width.levels for g in width.groups)
        assert not wider or cost({**sizes, **{g.id: int(wider[0]) for g in width.groups}}) > round.budget.target
    assert counts == allocation.keep(round, scores).counts


@pytest.mark.xdist_group("llama")
def test_a_width_that_does_nothing_is_cut_first() -> None:
    """Where the second MLP's channels are dead but one, the knapsack takes them, whatever their scores say."""
    source = graph("llama")
    name = "model.layers.1.mlp.down_proj.weight"
    dead = source.parameters()[name].detach().clone()
    dead[:, 1:] = 0
    quiet = source.with_tensors({name: torch.nn.Parameter(dead)})
    request = Request(Budget(int(0.9 * source.parameter_count())), Magnitude(), Knapsack(levels=3, samples=4), ("mlp",))
    plan: Plan = prune(quiet, request, BATCHES).plan
    left = {id: len(units) for id, units in plan.keep.items()}
    assert list(left) == [g.id for g in analysis("llama").groups.prunable(frozenset({"mlp"})) if "layers.1" in g.id]


@pytest.mark.xdist_group("llama")
def test_refused_without_text_with_wrong_options_and_out_of_reach() -> None:
    round, scores = make_round(0.8)
    with pytest.raises(UsageError, match="--data"):
        Knapsack().keep(replace(round, batches=()), scores)
    with pytest.raises(UsageError, match="levels of knapsack is 1 or more"):
        Knapsack(levels=0)
    with pytest.raises(UsageError, match="ceiling"):
        Knapsack(ceiling=float("nan"))
    with pytest.raises(BudgetError, match="out of reach"):
        Knapsack().keep(*make_round(0.01))


def test_the_first_batches_that_hold_so_many_samples() -> None:
    assert [len(first_rows(BATCHES, n)) for n in (1, 4, 5, 8, 100)] == [1, 1, 2, 2, 4]
