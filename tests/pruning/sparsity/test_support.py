"""Support: what conjugate gradients find on a pattern is the least squares of each output by itself."""

import torch

from graphprune.pruning.sparsity.support import solve_on_support
from graphprune.weights.patterns import Grouped
from tests.support.sparse_problems import problem


def test_each_output_has_the_least_squares_of_its_own_support() -> None:
    given = problem(12, 16, moved=0.5)
    kept = Grouped(2, 4).keep(given.weight.abs())
    found = solve_on_support(given.gram, given.cross, kept, given.weight, 400, 1e-12)
    for row, own in enumerate(kept):
        exact = torch.linalg.solve(given.gram[own][:, own], given.cross[row, own])
        assert torch.allclose(found[row, own], exact, rtol=1e-6, atol=1e-9)
    assert not found[~kept].any()


def test_inputs_without_energy_stay_at_zero() -> None:
    given = problem()
    dead = torch.arange(8) == 3
    gram, cross = given.gram.clone(), given.cross.clone()
    gram[dead], gram[:, dead], cross[:, dead] = 0, 0, 0
    found = solve_on_support(gram, cross, torch.ones_like(cross, dtype=torch.bool), given.weight)
    assert torch.isfinite(found).all()
    assert not found[:, dead].any()
