"""Agreement of embeddings, against what a few lines give."""

import math

import pytest
import torch

from graphprune.encoders.agreement import agreement, ranks, similarities, spearman


def test_equal_numbers_share_the_mean_of_their_ranks() -> None:
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [3.0, 0.0, 3.0, 1.0, 3.0]


def test_the_correlation_of_ranks_is_spearmans() -> None:
    # From 1 - 6 sum d^2 / n (n^2 - 1), which holds where no two are equal: d = 1, 1, 0, 0.
    assert spearman(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([20.0, 10.0, 30.0, 900.0])) == pytest.approx(0.8)
    assert spearman(torch.arange(9.0), torch.arange(9.0).exp()) == pytest.approx(1.0)
    assert math.isnan(spearman(torch.ones(1), torch.ones(1)))


def test_pairs_are_each_counted_once_and_a_turned_space_agrees() -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.nn.functional.normalize(torch.randn(12, 5, generator=generator, dtype=torch.float64), dim=-1)
    assert similarities(before).tolist() == pytest.approx(
        [float(before[i] @ before[j]) for i in range(12) for j in range(i + 1, 12)]
    )
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    found = agreement(before, before @ turn)
    assert found.ranks == pytest.approx(1.0)
    assert found.cosine == pytest.approx(float(((before @ turn) * before).sum(-1).mean()))
    narrower = agreement(before, torch.nn.functional.normalize(before[:, :4], dim=-1))
    assert math.isnan(narrower.cosine)
    assert 0 < narrower.ranks < 1
