"""FISTAPruner: its steps are the formula's and end where the convex problem does; nothing is worse than its start."""

import itertools
import math

import numpy
import pytest
import torch

from graphprune.pruning.sparsity.fista import Fista, descend, fista_prune, largest_eigenvalue
from graphprune.pruning.sparsity.solving import wanda
from graphprune.weights.patterns import Grouped, Pattern, Share
from tests.support.sparse_problems import problem


def test_steps_are_those_of_the_paper() -> None:
    given, l1 = problem(moved=0.5), 0.3
    gram, cross = given.gram.numpy(), given.cross.numpy()
    reach = numpy.linalg.eigvalsh(gram)[-1]
    weight = ahead = given.weight.numpy()
    pace = 1.0
    for _ in range(7):
        moved = ahead - (ahead @ gram - cross) / reach
        new = numpy.sign(moved) * numpy.maximum(numpy.abs(moved) - l1 / reach, 0)
        following = (1 + math.sqrt(1 + 4 * pace**2)) / 2
        ahead, weight, pace = new + (pace - 1) / following * (new - weight), new, following
    found = descend(given, given.weight, l1, 1 / reach, 7)
    assert numpy.allclose(found.numpy(), weight, rtol=1e-9)


def test_the_end_meets_the_conditions_of_the_optimum() -> None:
    given, l1 = problem(moved=0.5), 0.5
    found = descend(given, given.weight, l1, 1 / largest_eigenvalue(given.gram), 20_000, 1e-12)
    pull = given.cross - found @ given.gram
    on = found != 0
    assert 0 < int(on.sum()) < on.numel()
    assert float((pull[on] - l1 * found[on].sign()).abs().max()) < 1e-4
    assert float(pull[~on].abs().max()) < l1 + 1e-4


def test_without_the_l1_term_and_errors_the_weight_comes_back() -> None:
    given = problem()
    found = descend(given, torch.zeros_like(given.weight), 0.0, 1 / largest_eigenvalue(given.gram), 30_000, 1e-12)
    assert float((found - given.weight).norm() / given.weight.norm()) < 1e-6


def test_the_bound_of_the_eigenvalue_is_one() -> None:
    for seed in range(5):
        gram = problem(width=12, seed=seed).gram
        exact = float(torch.linalg.eigvalsh(gram)[-1])
        assert exact * (1 - 1e-6) <= largest_eigenvalue(gram) < 1.2 * exact


@pytest.mark.parametrize("pattern", [Share(0.5), Grouped(2, 4)])
@pytest.mark.parametrize("search", ["log", "paper"])
def test_it_is_never_worse_than_its_start_and_has_the_pattern(pattern: Pattern, search: str) -> None:
    better = 0
    for seed in range(4):
        given = problem(12, 16, moved=0.5, seed=seed)
        start = wanda(given, pattern)
        found, trace = fista_prune(given, pattern, start, Fista(search=search, eps=0.0))  # type: ignore[arg-type]
        assert trace
        assert given.error(found) <= given.error(start)
        assert not found[~pattern.keep(found.abs())].any()
        better += given.error(found) < given.error(start)
    assert better


def test_the_search_in_logarithms_rises_where_rounding_costs_most_and_falls_else() -> None:
    given = problem(12, 16, moved=0.5)
    options = Fista(patience=9, eps=0.0, rounds=9)
    _, trace = fista_prune(given, Share(0.5), wanda(given, Share(0.5)), options)
    for one, other in itertools.pairwise(trace):
        assert (other.l1 > one.l1) == (one.rounding > 0.3 * one.error)
    assert trace[0].l1 == pytest.approx(math.sqrt(1e-7) * float(given.cross.abs().max()))
