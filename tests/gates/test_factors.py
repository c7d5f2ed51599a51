"""Factors of several masks act on their own rows, those of one on all."""

import pytest
import torch

from graphprune.errors import PlanError
from graphprune.gates.factors import counted, leave, norm_of_survivors, present, scale, scale_mean, spread


def test_units_own_indices_and_what_nobody_owns_stays() -> None:
    gate = torch.tensor([[0.0, 2.0], [3.0, 4.0]])
    assert spread(gate, torch.tensor([1, 0, 2])).tolist() == [[2, 0, 1], [4, 3, 1]]


def test_each_mask_has_its_part_of_the_rows() -> None:
    x, line = torch.ones(4, 2, 3), torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    assert scale(x, line, 2, True, 4)[:, 0].tolist() == [[1, 2, 3], [1, 2, 3], [4, 5, 6], [4, 5, 6]]
    assert scale(x.reshape(8, 3), line, 1, True, 4)[::2].tolist() == [[1, 2, 3], [1, 2, 3], [4, 5, 6], [4, 5, 6]]
    assert scale(x[:1], line, 2, False, 4)[:, 1].tolist() == [[1, 2, 3], [1, 2, 3], [4, 5, 6], [4, 5, 6]]
    assert scale(x, line[:1], 2, False, 4)[3, 1].tolist() == [1, 2, 3]
    assert scale(x[0], torch.tensor([[2.0, 0.0]]), 0, False, 4).tolist() == [[2, 2, 2], [0, 0, 0]]


def test_rows_that_are_not_told_apart_take_one_mask() -> None:
    line = torch.ones(2, 3)
    with pytest.raises(PlanError, match="run one after the other"):
        scale(torch.ones(4, 3), line, 1, False, 4)
    with pytest.raises(PlanError, match="units lie along the rows"):
        scale(torch.ones(4, 3), torch.ones(2, 4), 0, True, 4)


def test_absent_units_count_for_nothing() -> None:
    x, line = torch.tensor([[5.0, 6.0], [7.0, 8.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert leave(x, line, 1, True, float("-inf")).tolist() == [[float("-inf"), 6], [7, float("-inf")]]
    assert present(x, line * 3, 1, True).tolist() == [[0, 6], [7, 0]]
    assert counted(torch.tensor([[1.0, 0, 1], [0, 0, 1]]), 2).tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("centred", [False, True])
def test_a_norm_of_survivors_is_the_norm_of_what_is_left(centred: bool) -> None:
    x, weight, bias = torch.randn(3, 2, 6).double(), torch.randn(6).double(), torch.randn(6).double()
    kept = [0, 2, 3]
    line = torch.zeros(1, 6).double().index_fill(1, torch.tensor(kept), 1)
    found = norm_of_survivors(x * line, line, weight, bias, 1e-5, centred, True)[..., kept]
    left = x[..., kept]
    if centred:
        expected = torch.nn.functional.layer_norm(left, (3,), weight[kept], bias[kept], 1e-5)
    else:
        expected = torch.nn.functional.rms_norm(left, (3,), weight[kept], 1e-5) + bias[kept]
    torch.testing.assert_close(found, expected)


def test_a_mean_of_survivors_is_over_what_is_left() -> None:
    x, line = torch.tensor([[[2.0, 0.0, 4.0]]]), torch.tensor([[0.5, 0.0, 1.0]])
    assert scale_mean(x.mean(-1, keepdim=True), line, True).item() == pytest.approx(3)
