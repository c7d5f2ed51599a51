"""Exact statistics: a norm of the units that are left gives what it gave while the others were zero."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.axes.inference import Call
from graphprune.errors import PlanError
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.ir.types import TensorType
from graphprune.rewriting.apply import apply, cut, kept_masks
from graphprune.rewriting.norm_statistics import averaged_share, keep_statistics
from graphprune.rewriting.widths import Widths

functional = nn.functional
KEPT = (0, 2, 3, 7, 8)
UNITS, ROWS = 10, 6


class Normed(nn.Module):
    """Units that go through a norm to a layer that reads them."""

    def __init__(self, norm: Callable[["Normed", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave, self.norm = nn.Linear(5, UNITS), nn.Linear(UNITS, 3), norm
        self.weight, self.bias = nn.Parameter(torch.randn(UNITS)), nn.Parameter(torch.randn(UNITS))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.norm(self, self.enter(x)))  # type: ignore[no-any-return]


def layer_norm(m: Normed, x: Tensor) -> Tensor:
    return functional.layer_norm(x, (UNITS,), m.weight, m.bias, 1e-3)


def bare_layer_norm(m: Normed, x: Tensor) -> Tensor:
    return functional.layer_norm(x, (UNITS,))


def rms_norm(m: Normed, x: Tensor) -> Tensor:
    return functional.rms_norm(x, (UNITS,), m.weight, 1e-3)


def rms_norm_without_eps(m: Normed, x: Tensor) -> Tensor:
    return functional.rms_norm(x, (UNITS,), m.weight)


def mean(m: Normed, x: Tensor) -> Tensor:
    return m.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3)


def group_norm(m: Normed, x: Tensor) -> Tensor:
    return functional.group_norm(x.transpose(1, 2), 1, m.weight, m.bias).transpose(1, 2)


NORMS = [layer_norm, bare_layer_norm, rms_norm, rms_norm_without_eps, mean, group_norm]


def made(norm: Callable[[Normed, Tensor], Tensor]) -> tuple[Graph, Analysis, Widths]:
    graph = capture(Normed(norm).double().eval(), inputs={"x": torch.randn(4, ROWS, 5, dtype=torch.float64)})
    analysis = analyze_axes(graph)
    [units] = [g for g in analysis.groups.groups if any(s.name == "enter.weight" and s.dim == 0 for s in g.slots)]
    assert (units.locked, units.averaged) == (None, True)
    return graph, analysis, Widths(analysis.inference, kept_masks(analysis, Plan({units.id: KEPT})))


def masked(graph: Graph, x: Tensor) -> Tensor:
    """The module by hand: whatever has a dimension of the units is zero where a unit is gone."""
    gone, zeroed = torch.tensor([unit for unit in range(UNITS) if unit not in KEPT]), {}
    for name, tensor in graph.tensors().items():
        copy = tensor.detach().clone()
        for dim in (d for d, size in enumerate(tensor.shape) if size == UNITS):
            copy.index_fill_(dim, gone, 0)
        zeroed[name] = nn.Parameter(copy)
    return graph.with_tensors(zeroed)(x)[0]


@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_of_the_units_left_gives_what_it_gave_while_the_others_were_zero(
    norm: Callable[[Normed, Tensor], Tensor],
) -> None:
    graph, _, widths = made(norm)
    small = cut(graph, widths)
    x = torch.randn(4, ROWS, 5, dtype=torch.float64)
    with torch.no_grad():
        plain = small(x)[0]
        exact = keep_statistics(small, graph, widths)(x)[0]
        torch.testing.assert_close(exact, masked(graph, x), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(plain, exact, rtol=1e-2)


@pytest.mark.parametrize("norm", [layer_norm, rms_norm, mean])
def test_a_second_cut_is_exact_too(norm: Callable[[Normed, Tensor], Tensor]) -> None:
    graph, analysis, _ = made(norm)
    [id] = [g.id for g in analysis.groups.groups if g.averaged]
    once = apply(graph, Plan({id: KEPT}, statistics="exact"))
    second = next(g.id for g in analyze_axes(once).groups.groups if g.units == len(KEPT))
    twice = apply(once, Plan({second: (0, 1, 4)}, statistics="exact"))
    at_once = apply(graph, Plan({id: (KEPT[0], KEPT[1], KEPT[4])}, statistics="exact"))
    x = torch.randn(4, ROWS, 5, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(twice(x)[0], at_once(x)[0], rtol=1e-12, atol=1e-12)


def test_the_share_is_kept_over_whole_and_none_where_nothing_went() -> None:
    graph, analysis, widths = made(layer_norm)
    shares = [averaged_share(Call(n, widths.inference), widths) for n in graph.nodes if n.op == "call_function"]
    assert [share for share in shares if share is not None] == [len(KEPT) / UNITS]
    whole = Widths(analysis.inference, {})
    assert not [n for n in graph.nodes if n.op == "call_function" and averaged_share(Call(n, whole.inference), whole)]


class Looking(torch.fx.Interpreter):
    """Runs a graph and compares each value with the type of its node, whose symbolic sizes are left out."""

    def run_node(self, n: torch.fx.Node) -> object:
        result, kind = super().run_node(n), n.meta.get("value")
        if isinstance(kind, TensorType):
            assert isinstance(result, Tensor)
            assert result.dtype == kind.dtype
            pairs = zip(result.shape, kind.shape, strict=True)
            assert all(size == said for size, said in pairs if isinstance(said, int)), n.name
        return result


@pytest.mark.parametrize("norm", NORMS)
def test_types_of_the_new_calls_are_those_of_their_values(norm: Callable[[Normed, Tensor], Tensor]) -> None:
    graph, _, widths = made(norm)
    exact = keep_statistics(cut(graph, widths), graph, widths)
    assert "value" in exact.nodes[-2].meta
    Looking(exact.module).run(torch.randn(4, ROWS, 5, dtype=torch.float64))


def several_groups(m: Normed, x: Tensor) -> Tensor:
    return functional.group_norm(x.transpose(1, 2), 2, m.weight, m.bias).transpose(1, 2)


def several_dimensions(m: Normed, x: Tensor) -> Tensor:
    return functional.layer_norm(x, (ROWS, UNITS))


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (several_groups, "no exact statistics for a norm of 2 groups, at .*; use statistics survivors"),
        (several_dimensions, "no exact statistics for a norm over several dimensions, at .*; use statistics survivors"),
    ],
)
def test_norms_without_an_exact_form_say_what_to_use(norm: Callable[[Normed, Tensor], Tensor], message: str) -> None:
    graph = capture(Normed(norm).double().eval(), inputs={"x": torch.randn(4, ROWS, 5, dtype=torch.float64)})
    analysis = analyze_axes(graph)
    averaged = next(g for g in analysis.groups.prunable() if g.averaged)
    with pytest.raises(PlanError, match=message):
        apply(graph, Plan({averaged.id: tuple(range(averaged.units - 1))}, statistics="exact"))
