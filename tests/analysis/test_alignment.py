"""Multiples: which widths of experts grouped products can read, and which tensors are such stacks."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphprune.analysis.alignment import ALIGNED, find_multiples, find_stacks, is_multiplied, steps
from graphprune.analysis.analyse import analyze_axes
from graphprune.axes.algebra import Algebra
from graphprune.axes.inference import infer
from graphprune.axes.rules import BUILT_IN
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph


@pytest.mark.parametrize("sizes", [(16,), (44,), (6,), (8, 4), (4, 6), (3, 16), (2, 2, 8), (5,)])
def test_widths_that_keep_to_their_steps_keep_rows_aligned(sizes: tuple[int, ...]) -> None:
    """Each factor cut to any multiple of its step, the others whole: a width that was aligned stays so."""
    algebra = Algebra()
    factors = [algebra.fresh(size) for size in sizes]
    found = dict(steps(algebra, algebra.product(factors)))
    common = math.gcd(ALIGNED, math.prod(sizes))
    for factor, size in zip(factors, sizes, strict=True):
        assert size % found[factor] == 0
        for width in range(found[factor], size + 1, found[factor]):
            assert math.prod(sizes) // size * width % common == 0


@pytest.mark.parametrize("sizes", [(16,), (4, 6), (3, 16), (2, 2, 8)])
def test_a_smaller_step_would_not_do(sizes: tuple[int, ...]) -> None:
    algebra = Algebra()
    factors = [algebra.fresh(size) for size in sizes]
    for factor, step in steps(algebra, algebra.product(factors)):
        others = math.prod(sizes) // int(str(algebra.size(factor)))
        assert all(others * smaller % math.gcd(ALIGNED, math.prod(sizes)) for smaller in range(1, step))


def test_every_part_of_a_joined_axis_is_aligned_by_itself() -> None:
    algebra = Algebra()
    gate, up = algebra.fresh(16), algebra.fresh(12)
    assert dict(steps(algebra, algebra.concat((gate, up)))) == {gate: 8, up: 4}


class Experts(nn.Module):
    """The two best of four experts for each row; `read` says how their weights are used."""

    def __init__(self, read: Callable[["Experts", Tensor, Tensor], Tensor], width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.read = nn.Linear(width, 4), read
        self.stack = nn.Parameter(torch.randn(4, width, 24))

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self, x, self.gate(x).topk(2).indices.reshape(-1))


def multiplied(m: Experts, x: Tensor, chosen: Tensor) -> Tensor:
    return torch.bmm(x.repeat_interleave(2, 0)[:, None], m.stack[chosen])


def turned(m: Experts, x: Tensor, chosen: Tensor) -> Tensor:
    return torch.matmul(m.stack[chosen].transpose(1, 2), x.repeat_interleave(2, 0)[..., None])


def added(m: Experts, x: Tensor, chosen: Tensor) -> Tensor:
    return m.stack[chosen].sum(0) + 0 * x.sum()


def not_chosen(m: Experts, x: Tensor, chosen: Tensor) -> Tensor:
    return torch.matmul(x, m.stack).sum(0) + 0 * chosen.sum()


def graph_of(read: Callable[[Experts, Tensor, Tensor], Tensor], width: int = 16) -> Graph:
    return capture(Experts(read, width).eval(), inputs={"x": torch.randn(3, width)})


@pytest.mark.parametrize(("read", "found"), [(multiplied, True), (turned, True), (added, False), (not_chosen, False)])
def test_stacks_are_chosen_from_and_multiplied_with(
    read: Callable[[Experts, Tensor, Tensor], Tensor], found: bool
) -> None:
    graph = graph_of(read)
    stacks = [str(node.target) for node in find_stacks(graph, infer(graph, BUILT_IN))]
    assert stacks == (["stack"] if found else [])


def test_rows_and_columns_of_a_stack_have_a_step_and_experts_none() -> None:
    graph = graph_of(multiplied, width=12)
    analysis = analyze_axes(graph)
    found = find_multiples(graph, analysis.inference)
    algebra = analysis.inference.algebra
    stack = next(n for n in graph.module.graph.find_nodes(op="get_attr") if n.target == "stack")
    experts, rows, columns = (algebra.find(axis) for axis in analysis.inference.axes[stack])  # type: ignore[arg-type]
    assert experts not in found
    assert found == {rows: 4, columns: 8}
    by_slot = {(s.name, s.dim): g.multiple for g in analysis.groups.groups for s in g.slots}
    assert [by_slot["stack", dim] for dim in range(3)] == [1, 4, 8]


def test_a_product_is_seen_through_other_shapes_alone() -> None:
    graph = graph_of(turned)
    picked = next(n for n in graph.nodes if str(n.target) == "aten.index.Tensor")
    assert is_multiplied(picked)
    sums = graph_of(added)
    assert not is_multiplied(next(n for n in sums.nodes if str(n.target) == "aten.index.Tensor"))
