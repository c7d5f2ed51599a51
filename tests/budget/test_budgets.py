"""Targets as users write them, the widths that are allowed, and the exact solver on random polynomials."""

import itertools
import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.amounts import parse_target
from graphprune.analysis.cost import Costs, Polynomial
from graphprune.analysis.groups import Group, Groups, Kind
from graphprune.budget.budgets import Budget, check_reachable, free_widths, reachable_minimum
from graphprune.budget.quantities import CacheBytes
from graphprune.budget.solver import solve
from graphprune.errors import BudgetError, GraphpruneError, UsageError
from graphprune.pruning.options import Pruning


def make_group(id: str, units: int, kind: Kind = "mlp") -> Group:
    return Group(id, units, (), (), kind, "", None, False, None)


def make_groups(groups: list[Group], terms: dict[tuple[str, ...], int]) -> Groups:
    cost, nothing = Polynomial(terms), Polynomial({})
    return Groups(tuple(groups), (), Costs(cost, nothing, nothing, nothing))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("1B", 10**9),
        ("1.5b", 15 * 10**8),
        ("6e8", 6 * 10**8),
        ("600M", 6 * 10**8),
        ("60%", 12 * 10**8),
        ("250k", 250_000),
        ("12345", 12345),
        ("1_000_000", 10**6),
        (" .5 m ", 500_000),
        ("33.3%", 666_000_000),
    ],
)
def test_targets(text: str, target: int) -> None:
    assert parse_target(text, 2 * 10**9) == target


@pytest.mark.parametrize("text", ["", "x", "1.5", "0", "-5", "0%", "1B2", "0.6", "%", "1e", "nan", "1e999"])
def test_bad_targets_show_examples(text: str) -> None:
    with pytest.raises(UsageError, match=r"600M.*60%") as caught:
        parse_target(text, 10**9)
    assert not isinstance(caught.value, BudgetError)


@pytest.mark.parametrize("text", ["2B", "1000000001"])
def test_a_target_above_the_model_is_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="above the whole"):
        parse_target("101%", 10**9)
    with pytest.raises(BudgetError, match="above the model's 1,000,000,000"):
        parse_target(text, 10**9)
    assert parse_target("100%", 10**9) == 10**9


def test_widths_respect_floors_rounding_and_kinds() -> None:
    mlp, heads = make_group("m", 20), make_group("h", 8, "attention")
    widths = free_widths([mlp, heads], Budget(1, min_units=2, floor=0.3, round_to=8))
    assert [width.levels.tolist() for width in widths] == [[8, 16, 20], [3, 4, 5, 6, 7, 8]]
    only = free_widths([heads], Budget(1, allowed={"attention": frozenset({2, 4, 8})}))
    assert only[0].levels.tolist() == [2, 4, 8]
    with pytest.raises(BudgetError, match="no allowed width for h"):
        free_widths([heads], Budget(1, allowed={"attention": frozenset({3}), "mlp": frozenset({1})}, min_units=4))


@pytest.mark.parametrize(
    ("units", "even", "step"),
    [
        *[(1536, 8, 8), (1536, 64, 32), (2048, 64, 64), (512, 64, 16), (512, 8, 8), (172, 8, 4), (100, 8, 2)],
        *[(24, 8, 1), (1001, 8, 1), (64, 64, 2), (1, 8, 1), (14336, 64, 64)],
    ],
)
def test_widths_are_even_as_far_as_that_costs_little(units: int, even: int, step: int) -> None:
    levels = free_widths([make_group("m", units)], Budget(1, even=even))[0].levels.tolist()
    assert levels == list(range(step, units + 1, step))
    assert free_widths([make_group("h", units, "attention")], Budget(1, even=even))[0].levels.tolist()[0] == 1


def test_what_is_asked_for_comes_before_what_is_even() -> None:
    group = make_group("m", 512)
    only = Budget(1, allowed={"mlp": frozenset({300, 301})}, even=8)
    assert free_widths([group], only)[0].levels.tolist() == [300, 301]
    assert Pruning().even == 8
    assert Pruning(runtime="vllm").even == 64
    assert Pruning(round_to=1).even == 1
    assert Pruning(round_to=5, runtime="vllm").even == 1


def test_uniform_ties_equal_groups_of_one_kind() -> None:
    groups = [make_group("a", 8), make_group("b", 8), make_group("c", 6), make_group("d", 8, "attention")]
    widths = free_widths(groups, Budget(1, uniform=True))
    assert [[group.id for group in width.groups] for width in widths] == [["a", "b"], ["c"], ["d"]]


def test_below_the_reachable_minimum_is_refused_with_the_minimum() -> None:
    group = make_group("m", 10)
    groups = make_groups([group], {(): 1000, ("m",): 5})
    assert reachable_minimum(groups, [group], Budget(1, min_units=3)) == 1015
    check_reachable(groups, [group], Budget(1015, min_units=3))
    with pytest.raises(BudgetError, match="1,015"):
        solve(groups, free_widths([group], Budget(1014, min_units=3)), [numpy.arange(7.0)], Budget(1014, min_units=3))


def test_other_costs_can_be_the_measure() -> None:
    group = make_group("m", 10)
    costs = Costs(Polynomial({("m",): 1}), Polynomial({}), Polynomial({}), Polynomial({("m",): 2}))
    budget = Budget(9, quantity=CacheBytes())
    groups = Groups((group,), (), costs)
    assert solve(groups, free_widths([group], budget), [-numpy.arange(9.0)], budget) == {"m": 4}


def test_bad_options_are_refused() -> None:
    for options in ({"min_units": 0}, {"floor": 1.5}, {"round_to": 0}, {"target": 0}):
        with pytest.raises(UsageError):
            Budget(**{"target": 5, **options})  # type: ignore[arg-type]
    group = make_group("m", 3)
    with pytest.raises(GraphpruneError, match="not a number"):
        solve(
            make_groups([group], {("m",): 1}), free_widths([group], Budget(2)), [numpy.array([1, math.nan])], Budget(2)
        )


def test_units_are_kept_by_priority() -> None:
    a, b = make_group("a", 4), make_group("b", 4)
    groups = make_groups([a, b], {("a",): 10, ("b",): 10})
    widths = free_widths([a, b], Budget(60))
    assert solve(groups, widths, [numpy.array([9, 8, 1]), numpy.array([7, 6, 5])], Budget(60)) == {"a": 3, "b": 3}
    assert solve(groups, widths, [numpy.array([9, 8, 7]), numpy.array([6, 5, 4])], Budget(60)) == {"a": 4, "b": 2}


def test_a_cheap_unit_fills_what_an_expensive_one_leaves() -> None:
    a, b = make_group("a", 4), make_group("b", 9)
    groups = make_groups([a, b], {("a",): 100, ("b",): 3})
    counts = solve(groups, free_widths([a, b], Budget(219)), [numpy.full(3, 9.0), numpy.zeros(8)], Budget(219))
    assert counts == {"a": 2, "b": 6}


NAMES = ("a", "b", "c", "d")


@st.composite
def problems(draw: st.DrawFn) -> tuple[Groups, Budget, list[list[float]]]:
    """Random groups, a random polynomial with up to cubic terms, a reachable budget, random priorities."""
    choices: list[Kind] = ["mlp", "attention", "residual"]
    kinds = st.sampled_from(choices)
    members = [make_group(n, draw(st.integers(1, 24)), draw(kinds)) for n in NAMES[: draw(st.integers(1, 4))]]
    names = [group.id for group in members]
    pool = [t for n in range(1, 4) for t in itertools.combinations_with_replacement(names, n)]
    extra = draw(st.dictionaries(st.sampled_from(pool), st.integers(0, 50), max_size=6))
    terms: dict[tuple[str, ...], int] = {(n,): draw(st.integers(1, 40)) for n in names}
    terms |= {(): draw(st.integers(0, 1000))} | extra
    groups = make_groups(members, terms)
    options = {"min_units": draw(st.integers(1, 3)), "floor": draw(st.floats(0, 0.9))}
    loose = Budget(1, **options, round_to=draw(st.integers(1, 5)), uniform=draw(st.booleans()))  # type: ignore[arg-type]
    least, most = reachable_minimum(groups, members, loose), Polynomial(terms)(groups.sizes())
    target = draw(st.integers(max(1, least), max(1, most)))
    budget = Budget(target, loose.min_units, loose.floor, loose.round_to, loose.uniform)
    steps = [len(width.levels) - 1 for width in free_widths(members, budget)]
    priorities = [draw(st.lists(st.floats(-9, 9), min_size=n, max_size=n)) for n in steps]
    return groups, budget, priorities


@settings(deadline=None, max_examples=200)
@given(problems())
def test_the_solver_is_exact(problem: tuple[Groups, Budget, list[list[float]]]) -> None:
    groups, budget, priorities = problem
    widths = free_widths(groups.groups, budget)
    counts = solve(groups, widths, [numpy.array(p) for p in priorities], budget)
    cost = groups.costs.parameters
    achieved = cost(counts)
    assert achieved <= budget.target
    for width in widths:
        kept = {counts[group.id] for group in width.groups}
        assert len(kept) == 1
        level = width.levels.tolist().index(*kept)
        if level + 1 < len(width.levels):
            assert cost(counts | width.at(level + 1)) > budget.target, "one more step would have fitted"
    for group in groups.groups:
        count, rounded = counts[group.id], group.kind != "attention"
        assert count >= min(group.units, max(budget.min_units, budget.floor * group.units - 1e-6))
        assert count == group.units or not rounded or count % budget.round_to == 0


def test_a_large_model_is_solved() -> None:
    """32 layers of 14336 channels and 8 heads: nearly half a million steps."""
    members = [make_group(f"m{i}", 14336) for i in range(32)] + [make_group(f"h{i}", 8, "attention") for i in range(32)]
    terms: dict[tuple[str, ...], int] = {(): 1_050_000_000}
    terms |= {(g.id,): 12288 if g.kind == "mlp" else 5_242_880 for g in members}
    groups = make_groups(members, terms)
    budget = Budget(4_000_000_000)
    random = numpy.random.default_rng(0)
    widths = free_widths(members, budget)
    counts = solve(groups, widths, [random.random(len(w.levels) - 1) for w in widths], budget)
    assert 0 <= budget.target - groups.costs.parameters(counts) < 12288
