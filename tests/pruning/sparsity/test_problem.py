"""A problem: errors are those of outputs, damping is a pull to the old weight, scaling changes nothing."""

import pytest
import torch

from graphprune.pruning.sparsity.problem import Problem, free_solution
from tests.support.sparse_problems import inputs, problem


def test_errors_are_those_of_outputs() -> None:
    weight, other = problem().weight, problem(seed=3).weight
    x = inputs(8)
    y = x @ weight.T + torch.randn(len(x), 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    given = Problem.of(weight, x.T @ x / len(x), y.T @ x / len(x))
    best = torch.linalg.lstsq(x, y).solution.T

    def brute(w: torch.Tensor) -> float:
        return float((x @ w.T - y).square().sum() / len(x))

    assert torch.allclose(free_solution(given.weight, given.gram, given.cross), best, atol=1e-3)
    assert given.error(other) == pytest.approx(brute(other) - brute(best), rel=1e-4)
    assert given.error(given.best) == pytest.approx(0, abs=1e-6)


def test_where_nothing_was_cut_the_best_weight_is_the_one_there_is() -> None:
    given = problem()
    assert given.best is given.weight


def test_damping_pulls_to_the_old_weight() -> None:
    given = problem(moved=1.0)
    damped = Problem.of(given.weight, given.gram, given.cross, 100.0)
    assert (damped.best - given.weight).norm() < 0.1 * (given.best - given.weight).norm()


def test_scaled_inputs_give_the_same_errors_and_energy_one() -> None:
    given, other = problem(moved=0.5), problem(seed=3).weight
    even, scale = given.scaled()
    assert torch.allclose(even.gram.diagonal(), torch.ones(8, dtype=torch.float64))
    assert even.error(other * scale) == pytest.approx(given.error(other))
