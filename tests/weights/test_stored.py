"""Stored weights: what is computed of them is what is computed of the wide ones, bit for bit."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.errors import InvariantError
from graphprune.weights.stored import Stored, any_stored, narrowed, real, store

ROWS, COLUMNS = 30, 20


def weight(seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed)).bfloat16())


def test_a_stored_parameter_is_a_parameter_of_its_wide_type() -> None:
    stored = store(weight(), torch.float32)
    assert isinstance(stored, nn.Parameter)
    assert isinstance(stored, Stored)
    assert stored.dtype == torch.float32
    assert stored.requires_grad
    assert isinstance(nn.Parameter(stored.detach(), requires_grad=False), Stored)
    assert any_stored([torch.zeros(1), stored])
    assert not any_stored([torch.zeros(1)])


CALLS = {
    "linear": lambda w: functional.linear(torch.ones(3, 4, COLUMNS), w),
    "linear with bias": lambda w: functional.linear(torch.ones(3, COLUMNS), w, torch.arange(float(ROWS))),
    "transposed": lambda w: torch.ones(3, ROWS) @ w,
    "embedding": lambda w: functional.embedding(torch.tensor([[1, 5], [7, 7]]), w),
    "rows": lambda w: w.index_select(0, torch.tensor([2, 9])) * 2,
    "a view": lambda w: w.t()[3:7].sum(),
    "a sum": lambda w: w.abs().sum(dtype=torch.float64),
    "itself twice": lambda w: w * w,
    "a copy": lambda w: w.to(torch.float64),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_give_what_the_wide_weight_gives(name: str) -> None:
    stored, wide = store(weight(), torch.float32), weight().detach().float()
    assert torch.equal(CALLS[name](stored).detach(), CALLS[name](wide))


def test_gradients_are_those_of_the_wide_weight() -> None:
    def gradients(w: Tensor) -> list[Tensor]:
        x = torch.linspace(-1, 1, 60).view(3, COLUMNS).requires_grad_()
        loss = functional.linear(x, w).square().sum() + functional.embedding(torch.tensor([1, 1]), w).sum()
        loss.backward()
        assert x.grad is not None
        assert w.grad is not None
        return [x.grad, w.grad]

    found = gradients(store(weight(), torch.float32))
    wide = gradients(weight().detach().float().requires_grad_())
    assert all(torch.equal(a, b) for a, b in zip(found, wide, strict=True))
    assert not any_stored(found)


def test_autograd_keeps_the_stored_weight_and_not_the_wide_one() -> None:
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        functional.linear(torch.ones(3, COLUMNS, requires_grad=True), store(weight(), torch.float32))
    assert any_stored(kept)
    assert not [each for each in kept if each.numel() >= ROWS * COLUMNS and not isinstance(each, Stored)]


def test_what_is_picked_stays_stored_and_a_copy_is_real() -> None:
    stored = store(weight(), torch.float32)
    picked = stored.index_select(1, torch.tensor([0, 3]))
    assert isinstance(picked, Stored)
    assert picked.held.dtype == torch.bfloat16
    for made in (copy.deepcopy(stored), real(stored)):
        assert isinstance(made, nn.Parameter)
        assert not isinstance(made, Stored)
        assert torch.equal(made, weight().float())
    plain = torch.zeros(2)
    assert real(plain) is plain


def test_the_type_it_is_stored_in_needs_no_copy() -> None:
    stored = store(weight(), torch.float32)
    assert narrowed(stored, torch.bfloat16) is stored.held  # type: ignore[attr-defined]
    assert narrowed(stored, torch.float32).dtype == torch.float32
    assert torch.equal(narrowed(weight(), torch.bfloat16), weight())


def test_nothing_is_written_into_a_stored_weight() -> None:
    with pytest.raises(InvariantError, match=r"would change a weight that is only stored"), torch.no_grad():
        store(weight(), torch.float32).add_(1)
    with pytest.raises(InvariantError, match=r"copy_.* would change a weight"), torch.no_grad():
        store(weight(), torch.float32).copy_(torch.zeros(ROWS, COLUMNS))
