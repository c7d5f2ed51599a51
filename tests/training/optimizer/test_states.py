"""Narrow moments: how near they are, that rounding favours no side, that reading and putting back changes nothing."""

import pytest
import torch

from graphprune.training.optimizer.states import Narrow, States, narrow, widen

NARROW: tuple[States, ...] = ("bf16", "int8")
narrows = pytest.mark.parametrize("states", NARROW)


def drawn(count: int = 1000) -> torch.Tensor:
    """Values of many sizes and both signs."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, generator=draw) * torch.exp2(torch.randint(-8, 8, (count,), generator=draw).float())


def rounded(value: torch.Tensor, states: States, seed: int = 1) -> Narrow:
    made = narrow(torch.zeros_like(value), states)
    made.put(slice(0, value.numel()), value.reshape(-1), torch.Generator().manual_seed(seed))
    return made


@narrows
def test_what_is_read_and_put_back_is_the_same(states: States) -> None:
    made = rounded(-drawn().abs(), states)  # the largest of a block is negative
    again = narrow(widen(made), states)
    assert torch.equal(again.codes, made.codes)
    assert made.scales is None or (again.scales is not None and torch.equal(again.scales, made.scales))
    root = rounded(drawn().abs(), states)
    assert torch.equal(widen(narrow(widen(root).square().sqrt(), states)), widen(root))


@pytest.mark.parametrize(("states", "share"), [("float32", 0.0), ("bf16", 2**-8), ("int8", 0.06)])
def test_the_nearest_is_near(states: States, share: float) -> None:
    value = drawn().view(40, 25)
    found = widen(narrow(value, states))
    assert found.shape == value.shape
    least = value.abs().max() * (2**-20 if states == "int8" else 0)  # what is smaller in a block comes out as large
    assert bool(((found - value).abs() <= share * value.abs() + least).all())


@narrows
def test_rounding_at_random_favours_no_side_and_is_the_same_for_a_seed(states: States) -> None:
    value = torch.full((256,), 1.234)
    value[0] = 2.0  # the largest of the block
    means = [widen(rounded(value, states, seed))[1:].mean().item() for seed in range(20)]
    assert sum(means) / 20 == pytest.approx(1.234, rel=5e-3)
    assert torch.equal(widen(rounded(value, states)), widen(rounded(value, states)))
    assert not torch.equal(widen(rounded(value, states)), widen(rounded(value, states, 2)))


@narrows
def test_zero_alone_is_zero(states: States) -> None:
    value = torch.zeros(300)
    value[5], value[7] = 1.0, 1e-30
    found = widen(narrow(value, states))
    assert torch.equal(found == 0, value == 0)


def test_parts_are_those_of_the_whole() -> None:
    value = drawn(1024)
    for states in ("float32", "bf16", "int8"):
        made = narrow(torch.zeros_like(value), states)  # type: ignore[arg-type]
        for start in (0, 512):
            made.put(slice(start, start + 512), value[start : start + 512])
        assert torch.equal(widen(made), widen(narrow(value, states)))  # type: ignore[arg-type]
        assert torch.equal(widen(made, slice(512, 1024)), widen(made)[512:])


def test_they_take_two_bytes_and_one() -> None:
    value = drawn(1 << 12)
    assert narrow(value, "bf16").codes.nbytes == 2 * value.numel()
    codes, scales = narrow(value, "int8").codes, narrow(value, "int8").scales
    assert scales is not None
    assert codes.nbytes + scales.nbytes == value.numel() * (1 + 4 / 256)
