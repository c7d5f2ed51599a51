"""Norms that leave removed units at other values than zero, and norms after them."""

import pytest
import torch
from torch import Tensor, nn

from graphprune.analysis.analyse import analyze_axes
from graphprune.analysis.norm_locks import averaged_atoms, is_zeroed, leftover_locks
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.operators import opname
from graphprune.ir.plan import Plan
from tests.support import oracle
from tests.support.families import analysis, families, graph


class Stream(nn.Module):
    """A norm into a stream that is normed again; its weight is a parameter, or one more than it."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.branch, self.leave = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.weight, self.offset, self.norm = nn.Parameter(torch.randn(8)), offset, nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if not self.offset else self.weight + self.offset
        x = nn.functional.layer_norm(self.enter(x), (8,), weight)
        return self.leave(self.norm(x + self.branch(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_a_width_that_a_later_norm_would_count_is_locked(offset: float) -> None:
    wide, analysis, masked = oracle.analyses(capture(Stream(offset).eval(), inputs={"x": torch.randn(4, 5)}))
    stream = next(g for g in analysis.groups.groups if any(s.name == "branch.weight" for s in g.slots))
    if offset:
        assert stream.locked is not None
        assert "averaged over where a removed unit is not zero" in stream.locked
        return
    oracle.check_cut(wide, analysis, masked, Plan({stream.id: (0, 2, 5)}, statistics="exact"), 1e-9)


class Waves(nn.Module):
    """A function of the units goes through a norm; the cosine of a removed one is not zero, its sine is."""

    def __init__(self, wave: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.norm, self.leave, self.wave = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3), wave

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x)
        gated = torch.sigmoid(hidden) * hidden if self.wave == "gate" else getattr(torch, self.wave)(hidden)
        return self.leave(self.norm(gated))  # type: ignore[no-any-return]


@pytest.mark.parametrize("wave", ["sin", "cos", "gate"])
def test_functions_that_are_not_zero_at_zero(wave: str) -> None:
    wide, analysis, masked = oracle.analyses(capture(Waves(wave).eval(), inputs={"x": torch.randn(4, 5)}))
    hidden = next(g for g in analysis.groups.groups if any(s.name == "leave.weight" and s.dim == 1 for s in g.slots))
    assert (hidden.locked is not None) == (wave == "cos")
    if wave != "cos":
        oracle.check_cut(wide, analysis, masked, Plan({hidden.id: (0, 2, 5)}, statistics="exact"), 1e-9)


def stream(offset: float) -> Graph:
    return capture(Stream(offset).eval(), inputs={"x": torch.randn(4, 5)})


def test_the_lock_names_the_norm_that_would_count_what_is_left_over() -> None:
    captured = stream(1.0)
    inference = analyze_axes(captured).inference
    norms = [node for node in captured.nodes if opname(node) == "layer_norm"]
    (over,) = averaged_atoms(inference, norms[1], "layer_norm")
    reason = f"is averaged over where a removed unit is not zero, and nothing before makes it so (at {norms[1].name})"
    assert leftover_locks(captured, inference) == {over: reason}
    plain = stream(0.0)
    assert leftover_locks(plain, analyze_axes(plain).inference) == {}


def test_only_a_parameter_or_a_product_with_one_is_zero_for_removed_units() -> None:
    weights = []
    for offset in (0.0, 1.0):
        [first, _] = [node for node in stream(offset).nodes if opname(node) == "layer_norm"]
        weights.append(first.args[2])
    assert [is_zeroed(weight) for weight in weights] == [True, False]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", families(("llama", "gpt_neox", "bert", "falcon_h1")))
def test_models_whose_norms_have_weights_have_no_leftovers(name: str) -> None:
    assert leftover_locks(graph(name), analysis(name).inference) == {}


class Means(nn.Module):
    """A mean over the first, the last or all dimensions of something."""

    def __init__(self, dims: list[int]) -> None:
        super().__init__()
        self.enter, self.dims = nn.Linear(5, 8), dims

    def forward(self, x: Tensor) -> Tensor:
        return self.enter(x).mean(self.dims)


@pytest.mark.parametrize(("dims", "sizes"), [([1], {6}), ([-1], {8}), ([1, 2], {6, 8}), ([], {6, 8})])
def test_a_mean_runs_over_the_dimensions_that_it_names_or_over_all(dims: list[int], sizes: set[int]) -> None:
    captured = capture(Means(dims).eval(), inputs={"x": torch.randn(4, 6, 5)})
    inference = analyze_axes(captured).inference
    node = next(n for n in captured.nodes if opname(n) == "mean")
    found = {inference.algebra.size(atom) for atom in averaged_atoms(inference, node, "mean")}
    assert {size for size in found if isinstance(size, int)} == sizes
