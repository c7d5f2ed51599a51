"""The problem: which widths are searched, what genes say, the exact budget in the end; replays of a graph."""

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.budget.budgets import Budget, cost_of
from graphprune.pruning.interfaces import view
from graphprune.pruning.search.problem import Problem, near_grid, whole_grid
from graphprune.pruning.search.readers import find_readers
from graphprune.pruning.search.replay import Replay
from graphprune.running.inputs import graph_inputs
from tests.pruning.search.test_candidates import BATCHES, expected_of, problem_of
from tests.support.families import families, graph


@pytest.mark.parametrize("name", families(("llama", "gpt2", "gpt_neox", "mamba", "mixtral")))
def test_what_one_call_reads_is_searched(name: str) -> None:
    problem = problem_of(name, frozenset({"mlp", "attention", "residual", "experts"}))
    readers = find_readers(problem.scene.graph, problem.widths)
    tensors = problem.scene.graph.tensors()
    for place, width in enumerate(problem.widths):
        for reader in readers.get(place, ()):
            assert reader.group.kind not in ("residual", "experts")
            assert len(reader.owner) == reader.call.matrix(tensors[reader.call.weight]).shape[1]
            kept = reader.kept(1, problem.scores[reader.group.id])
            assert len({reader.owner[i] for i in kept.tolist()} - {-1}) == 1
        if width.groups[0].kind == "residual":
            assert place not in readers
    if name in ("llama", "gpt2", "gpt_neox"):
        kinds = {problem.widths[place].groups[0].kind for place in readers}
        assert kinds == {"mlp", "attention"}


@pytest.mark.xdist_group("llama")
def test_genes_and_counts_say_the_same() -> None:
    problem = problem_of("llama")
    expected = expected_of(problem)
    grid = near_grid(problem, expected, 1 / 16)
    assert grid.at(grid.genes(expected)) == expected
    assert all(counts == tuple(sorted(set(counts))) for counts in grid.counts.values())
    cost = cost_of(problem.scene.groups, problem.scene.budget)
    lowest = tuple(0 for _ in grid.places)
    assert grid.space.cost(lowest) == cost(problem.scene.groups.sizes() | grid.at(lowest))
    assert grid.fixed == {g.id: expected[g.id] for g in problem.scene.candidates if g.kind == "residual"}
    assert grid.within(expected) == grid.genes(expected)


@pytest.mark.parametrize("name", families(("llama", "gpt2")))
def test_a_whole_grid_has_both_ends_and_what_is_below_counts(name: str) -> None:
    problem = problem_of(name)
    expected = expected_of(problem)
    grid = whole_grid(problem, expected, 1 / 8)
    for place, counts in grid.counts.items():
        levels = problem.widths[place].levels
        assert counts == tuple(sorted(set(counts)))
        assert (counts[0], counts[-1]) == (levels[0], levels[-1])
        assert len(counts) == min(len(levels), 9)
    below, near = grid.at(grid.within(expected)), grid.at(grid.genes(expected))
    for place in grid.places:
        for group in problem.widths[place].groups:
            assert below[group.id] <= expected[group.id]
            assert abs(near[group.id] - expected[group.id]) <= expected[group.id] - below[group.id]


@pytest.mark.xdist_group("llama")
@pytest.mark.parametrize("outside", [0.25, 1.0])
def test_budgets_near_to_each_other_start_from_one_rung(outside: float) -> None:
    """A rung is what all are cut to by an amount: what is not searched is there, and what is searched fills up."""
    source = graph("llama")
    groups = analyze(source)
    whole = cost_of(groups, Budget(1))(groups.sizes())
    candidates = groups.prunable(frozenset({"mlp", "attention", "residual"}))
    rates = {g.id: outside if g.block is None else 1.0 for g in candidates}
    scores = {g.id: torch.arange(g.units).float() for g in candidates}
    rungs = set()
    for hundredths in range(40, 100, 2):
        scene = view(source, candidates, BATCHES, budget=Budget(hundredths * whole // 100))
        problem = Problem(scene, scores)
        start = problem.start(rates)
        cost = cost_of(groups, scene.budget)(groups.sizes() | start.counts)
        assert cost <= scene.budget.target
        assert problem.set_widths(start.counts) == problem.set_widths(start.expected)
        rungs.add(tuple(start.expected.items()))
    assert 2 <= len(rungs) < 20


@pytest.mark.xdist_group("llama")
@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_the_budget_is_filled_exactly_beyond_what_was_chosen(share: float) -> None:
    source = graph("llama")
    groups = analyze(source)
    whole = cost_of(groups, Budget(1))(groups.sizes())
    scene = view(
        source, groups.prunable(frozenset({"mlp", "attention", "residual"})), BATCHES, budget=Budget(int(share * whole))
    )
    problem = Problem(scene, {g.id: torch.arange(g.units).float() for g in scene.candidates})
    least = {g.id: max(1, g.least) for g in scene.candidates}
    found = problem.fill(least, {g.id: 0.25 for g in scene.candidates if g.block is None})
    cost = cost_of(groups, scene.budget)
    assert cost(groups.sizes() | found) <= scene.budget.target
    for group in scene.candidates:
        if found[group.id] < group.units:
            assert cost(groups.sizes() | found | {group.id: found[group.id] + 1}) > scene.budget.target
    assert problem.fill(found, {}) == found


@pytest.mark.parametrize("name", families(("llama", "gpt2")))
def test_a_replay_from_a_mark_is_a_run_from_the_start(name: str) -> None:
    source = graph(name)
    adds = [node for node in source.nodes if any(node.name == branch.add for branch in analyze(source).branches)]
    replay = Replay(source, BATCHES[:2], adds, lambda values, index: float(values[0].double().square().sum()) + index)
    with torch.no_grad():
        runs = [source(*graph_inputs(source, ids))[0] for ids in BATCHES[:2]]
    plain = sum(float(values.double().square().sum()) + index for index, values in enumerate(runs))
    assert replay.settle({}) == pytest.approx(plain)
    weights = [name for name in source.parameters() if source.parameters()[name].ndim == 2]
    for changed in (weights[0], weights[len(weights) // 2], weights[-1]):
        tensors = {changed: source.parameters()[changed].detach() * 0.5}
        wanted = Replay(source, BATCHES[:2], [], replay.judge).run(tensors)
        assert replay.run(tensors, (changed,)) == wanted
        assert wanted != pytest.approx(plain)
    assert replay.run({}, ()) == pytest.approx(plain)
