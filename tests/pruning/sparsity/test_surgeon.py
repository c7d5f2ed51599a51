"""SparseGPT: the algorithm in blocks is the plain loop over columns, which makes the inverse anew for each."""

import pytest
import torch
from torch import Tensor

from graphprune.pruning.sparsity.problem import Problem
from graphprune.pruning.sparsity.surgeon import sparse_gpt
from graphprune.weights.patterns import Grouped, Pattern, Share
from tests.support.sparse_problems import problem


def column_loop(weight: Tensor, gram: Tensor, pattern: Pattern, damping: float) -> Tensor:
    """OBS column by column: the inverse of the moments of the inputs that are left, made anew each time."""
    weight, width = weight.clone(), weight.shape[1]
    damped = gram + damping * gram.diagonal().mean() * torch.eye(width, dtype=gram.dtype)
    diagonal = [torch.linalg.inv(damped[j:, j:])[0, 0] for j in range(width)]
    kept = torch.zeros_like(weight, dtype=torch.bool)
    for j in range(width):
        size = width if isinstance(pattern, Share) else pattern.size
        if j % size == 0:
            group = slice(j, j + size)
            kept[:, group] = pattern.keep(weight[:, group].square() / torch.stack(diagonal[group]))
        left = torch.linalg.inv(damped[j:, j:])
        lost = torch.where(kept[:, j], 0.0, weight[:, j])
        weight[:, j:] -= torch.outer(lost / left[0, 0], left[0])
        weight[~kept[:, j], j] = 0
    return weight


@pytest.mark.parametrize(
    ("pattern", "block"), [(Share(0.5), 16), (Share(0.5, "row"), 16), (Grouped(2, 4), 16), (Grouped(2, 4), 4)]
)
def test_it_is_the_plain_loop_over_columns(pattern: Pattern, block: int) -> None:
    given = problem(16, 16)
    expected = column_loop(given.weight, given.gram, pattern, 0.01)
    assert torch.allclose(sparse_gpt(given, pattern, block), expected, rtol=1e-9, atol=1e-12)


def test_shares_are_exact_over_blocks() -> None:
    given = problem(7, 20)
    assert int((sparse_gpt(given, Share(0.37), 8) == 0).sum()) == round(0.37 * 140)


def test_dead_inputs_get_zeros_and_it_beats_leaving_the_rest_as_it_is() -> None:
    given = problem(16, 16)
    found = sparse_gpt(given, Grouped(2, 4))
    plain = given.weight * Grouped(2, 4).keep(given.weight.abs())
    assert given.error(found) < given.error(plain)
    gram = given.gram.clone()
    gram[5], gram[:, 5] = 0, 0
    dead = Problem(given.weight, gram, given.weight @ gram, given.weight, torch.zeros_like(given.weight))
    assert not sparse_gpt(dead, Grouped(2, 4))[:, 5].any()
