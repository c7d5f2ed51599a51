"""Alternating directions: the pattern is exact, a dense pattern would be the best weight, and others are beaten."""

import pytest
import torch

from graphprune.pruning.sparsity.alternating import alternate, damped_inverse
from graphprune.pruning.sparsity.fista import Fista
from graphprune.pruning.sparsity.solving import Method, PatternSolver
from graphprune.weights.patterns import Grouped, Pattern, Share
from tests.support.sparse_problems import problem


@pytest.mark.parametrize("pattern", [Share(0.5), Share(0.25, "row"), Grouped(2, 4)])
def test_the_pattern_is_exact_and_each_output_is_solved_on_it(pattern: Pattern) -> None:
    given = problem(12, 16, moved=0.3)
    found = alternate(given, pattern)
    zeros = (found == 0).sum()
    assert int(zeros) == (round(pattern.zeros * 192) if isinstance(pattern, Share) else 96)
    pull = given.cross - found @ given.gram
    assert float(pull[found != 0].abs().max()) < 1e-3 * float(given.cross.abs().max())


def test_it_is_below_the_others_on_the_mean_of_problems() -> None:
    methods: tuple[Method, ...] = ("wanda", "sparsegpt", "fista", "least-squares", "alternating")
    for pattern in (Share(0.5), Grouped(2, 4)):
        errors = dict.fromkeys(methods, 0.0)
        for seed in range(6):
            given = problem(24, 32, moved=0.3, seed=seed)
            for method in methods:
                found = PatternSolver(method, pattern, fista=Fista()).solve(given)
                errors[method] += given.error(found) / given.error(0 * given.weight)
        assert errors["alternating"] == min(errors.values())
        assert errors["fista"] <= errors["sparsegpt"] < errors["wanda"]


def test_the_damped_inverse_is_one() -> None:
    gram = problem(width=12).gram
    assert torch.allclose(
        damped_inverse(gram, 2.0) @ (gram + 2 * torch.eye(12, dtype=gram.dtype)), torch.eye(12, dtype=gram.dtype)
    )
