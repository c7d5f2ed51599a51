"""Hard-concrete gates: the probability of being open is the frequency of it, and positions have gradients."""

import math

import pytest
import torch

from graphprune.gates.hard_concrete import (
    LEAST,
    MOST,
    draw_factors,
    keep_probability,
    least_share,
    settled_factors,
)


@pytest.mark.parametrize("position", range(-4, 5))
@pytest.mark.parametrize("temperature", [2 / 3, 0.83])
def test_the_probability_is_how_often_a_factor_is_above_zero(position: int, temperature: float) -> None:
    draws = 100_000
    uniform = torch.rand(draws, generator=torch.Generator().manual_seed(position), dtype=torch.float64)
    place = torch.full((draws,), float(position), dtype=torch.float64)
    often = float((draw_factors(place, uniform, temperature) > 0).double().mean())
    wanted = float(keep_probability(place[:1], temperature))
    assert abs(often - wanted) < 3 * math.sqrt(wanted * (1 - wanted) / draws)


def test_the_gradient_of_an_open_factor_is_that_of_finite_differences() -> None:
    position = torch.tensor([0.3, -1.0, 1.5], dtype=torch.float64, requires_grad=True)
    uniform = torch.tensor([0.4, 0.8, 0.2], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: draw_factors(a, uniform), (position,))
    assert torch.autograd.gradcheck(keep_probability, (position,))


def test_gates_begin_open_and_cannot_all_be_expected_to_close() -> None:
    ends = torch.tensor([LEAST, MOST])
    low, high = keep_probability(ends).tolist()
    assert (round(low, 3), round(high, 3)) == (0.047, 0.998)
    assert least_share() == pytest.approx(low, abs=1e-6)
    assert settled_factors(ends).tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    assert float(settled_factors(torch.zeros(1))) == pytest.approx(0.5)
