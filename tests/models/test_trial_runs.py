"""Trial runs leave no trace: what a model keeps of a run is put back, and its tensors stay as they are."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from graphprune.models.trial_runs import fake_run, real_run


class Keeper(nn.Module):
    """Keeps all that a run can leave: numbers, tensors, entries, and its own weights changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)
        self.register_buffer("steps", torch.zeros(1))
        self.calls, self.seen, self.table = 0, [1], {"a": 1}
        self.last: Any = None
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = self.inner(x)
        self.seen.append(2)
        self.table.pop("a")
        self.inner.extra = self.last
        self.steps.add_(1)
        self.inner.weight.mul_(0.5)
        own = torch.zeros_like(x)
        own.add_(x)
        if self.fails:
            raise ZeroDivisionError
        return self.inner(own).add_(1)


@pytest.fixture
def keeper() -> Keeper:
    torch.manual_seed(0)
    return Keeper()


def unmarked(keeper: Keeper, weight: Tensor) -> None:
    assert (keeper.calls, keeper.seen, keeper.table, keeper.last) == (0, [1], {"a": 1}, None)
    assert not hasattr(keeper.inner, "extra")
    assert float(keeper.steps) == 0
    assert torch.equal(keeper.inner.weight, weight)


def test_a_run_without_values_leaves_no_trace(keeper: Keeper) -> None:
    weight, seen = keeper.inner.weight.detach().clone(), keeper.seen
    with fake_run(keeper) as fake:
        result = keeper(fake.from_tensor(torch.randn(4, 3)))
        assert keeper.calls == 1
    assert isinstance(result, FakeTensor)
    assert (result.shape, result.requires_grad) == ((4, 2), False)
    unmarked(keeper, weight)
    assert keeper.seen is seen, "the list itself, for others may hold it"


def test_a_run_with_values_computes_and_leaves_no_trace(keeper: Keeper) -> None:
    weight, x = keeper.inner.weight.detach().clone(), torch.randn(4, 3)
    with real_run(keeper):
        result = keeper(x)
    torch.testing.assert_close(result, nn.functional.linear(x, weight, keeper.inner.bias) + 1)
    assert not result.requires_grad
    unmarked(keeper, weight)


def test_with_values_only_what_is_the_model_s_own_is_kept_from_changes(keeper: Keeper) -> None:
    other = torch.zeros(2)
    with real_run(keeper):
        other.add_(1)
        keeper.steps.add_(1)
    assert other.tolist() == [1, 1]
    assert float(keeper.steps) == 0


@pytest.mark.parametrize("run", [fake_run, real_run])
def test_a_run_that_breaks_off_leaves_no_trace_either(run: Any, keeper: Keeper) -> None:
    weight = keeper.inner.weight.detach().clone()
    keeper.fails = True
    with pytest.raises(ZeroDivisionError), run(keeper):
        keeper(torch.zeros(4, 3))
    unmarked(keeper, weight)
