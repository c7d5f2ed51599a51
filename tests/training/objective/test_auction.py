"""The auction: each expert is given as many rows, and hardly less affinity than the best assignment has."""

import pytest
import torch

from graphprune.training.objective.auction import assign, fill


@pytest.mark.parametrize("draw", [torch.rand, torch.randn])
def test_it_is_within_two_hundredths_of_the_optimum_and_never_below_the_greedy_one(draw: object) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    for seed in range(25):
        affinity = draw(64, 8, generator=torch.Generator().manual_seed(seed))  # type: ignore[operator]
        found = assign(affinity)
        assert torch.bincount(found, minlength=8).tolist() == [8] * 8
        rows, columns = optimize.linear_sum_assignment(affinity.repeat_interleave(8, 1).numpy(), maximize=True)
        best = affinity.repeat_interleave(8, 1)[rows, columns].sum()
        greedy = fill(affinity.double(), torch.full((64,), -1), torch.full((8,), 8))
        value = affinity.gather(1, found[:, None]).sum()
        assert value >= 0.98 * best
        assert value >= affinity.gather(1, greedy[:, None]).sum() - 1e-5


def test_rows_that_do_not_divide_and_rows_that_are_alike() -> None:
    assert torch.bincount(assign(torch.randn(10, 4)), minlength=4).tolist() == [3, 3, 2, 2]
    assert torch.bincount(assign(torch.zeros(8, 4)), minlength=4).tolist() == [2] * 4
    assert torch.bincount(assign(torch.randn(2, 4)), minlength=4).tolist() == [1, 1, 0, 0]
    assert assign(torch.randn(5, 1)).tolist() == [0] * 5
    same = torch.randn(4, generator=torch.Generator().manual_seed(0)).expand(12, 4)
    assert torch.bincount(assign(same), minlength=4).tolist() == [3] * 4
