"""Stacks: what is computed with experts one by one is what all of them together compute, bit for bit."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from graphprune.errors import UsageError
from graphprune.weights.stacks import Picked, Stack

_aten = torch.ops.aten


class Given:
    """Holds one stack, and notes which experts were asked for."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.asked: list[int] = []

    def visit(self, stack: int, experts: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        for expert in reversed(experts):
            self.asked.append(expert)
            yield expert, self.weight[expert].clone()


def stack_of(weight: Tensor) -> tuple[Stack, Given]:
    given = Given(weight)
    return Stack(weight.to("meta"), given, 0, "experts"), given


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize(("out", "inputs"), [(8, 16), (520, 264)])
def test_batched_products_are_the_same_to_the_bit(out: int, inputs: int, rows: int, dtype: torch.dtype) -> None:
    weight, x = draw(5, out, inputs, dtype=dtype), draw(rows, inputs, dtype=dtype, seed=1)
    ids = torch.randint(5, (rows,), generator=torch.Generator().manual_seed(2))
    stack, given = stack_of(weight)
    picked = stack[ids]
    assert isinstance(picked, Picked)
    assert picked.shape == weight[ids].shape
    assert torch.equal(torch.bmm(picked, x.unsqueeze(-1)), torch.bmm(weight[ids], x.unsqueeze(-1)))
    assert sorted(given.asked) == sorted(set(ids.tolist())), "each once, and no other"
    turned = stack.transpose(1, 2)[ids]
    whole = weight.transpose(1, 2)[ids]
    y = draw(rows, 1, inputs, dtype=dtype, seed=3)
    assert torch.equal(torch.bmm(y, turned), torch.bmm(y, whole))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_products_are_the_same_to_the_bit(dtype: torch.dtype) -> None:
    weight, x = draw(4, 48, 32, dtype=dtype), draw(9, 32, dtype=dtype, seed=1)
    ends = torch.tensor([3, 3, 8, 9], dtype=torch.int32)
    stack, given = stack_of(weight)
    made = torch.nn.functional.grouped_mm(x, stack.transpose(1, 2), offs=ends)
    assert torch.equal(made, torch.nn.functional.grouped_mm(x, weight.transpose(1, 2), offs=ends))
    assert sorted(given.asked) == [0, 2, 3], "an expert without rows is not asked for"


def test_one_expert_is_read_alone_and_a_gathered_stack_is_the_tensor() -> None:
    weight = draw(4, 6, 8)
    stack, given = stack_of(weight)
    assert torch.equal(stack[2], weight[2])
    assert torch.equal(stack[-1], weight[3])
    assert given.asked == [2, 3]
    ids = torch.tensor([1, 3, 1])
    assert torch.equal(stack[ids] * 2, weight[ids] * 2), "what is no product gets the tensor"
    assert torch.equal(stack.index_select(0, ids) + 0, weight[ids])
    assert torch.equal(stack.permute(0, 2, 1)[ids] + 0, weight.permute(0, 2, 1)[ids])
    assert torch.equal(stack.to(torch.float64)[ids] + 0, weight.double()[ids])


def test_what_reads_all_experts_at_once_is_refused_by_name() -> None:
    stack, _ = stack_of(draw(4, 6, 8))
    with pytest.raises(UsageError, match="reads all experts of experts at once"):
        stack.sum()
    with pytest.raises(UsageError, match="all experts"):
        stack.transpose(0, 1)
