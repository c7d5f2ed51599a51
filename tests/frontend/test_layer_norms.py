"""Layer norms in parts are found in whatever form they are written, and nothing else is."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphprune import Graph, Plan, analyze, capture
from graphprune.frontend.tracing.layer_norms import fuse_layer_norms
from tests.support import oracle
from tests.support.drafts import Drawing, check

_aten = torch.ops.aten


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "cohere": lambda x: centred(x) * torch.rsqrt(centred(x).pow(2).mean(-1, keepdim=True) + 1e-5),
    "divided": lambda x: centred(x) / torch.sqrt((centred(x) * centred(x)).mean(-1, keepdim=True) + 1e-5),
    "square": lambda x: torch.rsqrt(torch.square(centred(x)).mean(-1, keepdim=True) + 1e-5) * centred(x),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "of something else": lambda x: centred(x.abs()) * torch.rsqrt(centred(x).pow(2).mean(-1, keepdim=True) + 1e-5),
    "over rows": lambda x: (
        (x - x.mean(0, keepdim=True)) * torch.rsqrt((x - x.mean(0, keepdim=True)).pow(2).mean(0, keepdim=True) + 1e-5)
    ),
    "cubes": lambda x: centred(x) * torch.rsqrt(centred(x).pow(4).mean(-1, keepdim=True) + 1e-5),
    "rms": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
}


class Normed(nn.Module):
    """Two linear layers with something between them."""

    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.scale, self.down, self.form = (
            nn.Linear(4, 12),
            nn.Parameter(torch.rand(12)),
            nn.Linear(12, 4),
            form,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.form(self.up(x)) * self.scale)


def capture_form(form: Callable[[Tensor], Tensor]) -> Graph:
    return capture(Normed(form).eval(), inputs={"x": torch.randn(3, 4)})


def calls(graph: Graph) -> set[str]:
    return {node.target._opname for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_a_layer_norm_is_one_call_that_computes_the_same(form: Callable[[Tensor], Tensor]) -> None:
    graph = capture_form(form)
    assert "layer_norm" in calls(graph)
    assert calls(graph).isdisjoint({"rsqrt", "sqrt", "mean"})
    x = torch.randn(3, 4)
    torch.testing.assert_close(graph(x)[0], Normed(form)(x))


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_its_statistics_are_exact_when_it_is_cut(form: Callable[[Tensor], Tensor]) -> None:
    wide, analysis, masked = oracle.analyses(capture_form(form))
    group = next(group for group in analysis.groups.prunable() if group.units == 12)
    oracle.check_cut(wide, analysis, masked, Plan({group.id: (0, 3, 4, 9, 11)}, statistics="exact"), 1e-9)


@pytest.mark.parametrize("form", OTHERS.values(), ids=list(OTHERS))
def test_what_is_none_stays(form: Callable[[Tensor], Tensor]) -> None:
    graph = capture_form(form)
    assert "layer_norm" not in calls(graph)
    x = torch.randn(3, 4)
    torch.testing.assert_close(graph(x)[0], Normed(form)(x))
    assert analyze(graph).groups


def test_a_layer_norm_is_put_together_from_its_parts() -> None:
    drawing = Drawing()
    x = drawing.input("x", 2, 6)
    less = drawing.call(_aten.sub.Tensor, x, drawing.call(_aten.mean.dim, x, [-1], True))
    variance = drawing.call(_aten.mean.dim, drawing.call(_aten.pow.Tensor_Scalar, less, 2), [-1], True)
    root = drawing.call(_aten.rsqrt.default, drawing.call(_aten.add.Tensor, variance, 1e-5))
    before = """
  %0: float32[2, 1] = mean.dim(x, [-1], True)
  %1: float32[2, 6] = sub.Tensor(x, %0)
  %2: float32[2, 6] = pow.Tensor_Scalar(%1, 2)
  %3: float32[2, 1] = mean.dim(%2, [-1], True)
  %4: float32[2, 1] = add.Tensor(%3, 1e-05)
  %5: float32[2, 1] = rsqrt(%4)
  %6: float32[2, 6] = mul.Tensor(%1, %5)
outputs
  output.0 = %6
"""
    after = """
  %0: float32[2, 6] = layer_norm(x, [6], None, None, 1e-05)
outputs
  output.0 = %0
"""
    check(fuse_layer_norms, drawing.output(drawing.call(_aten.mul.Tensor, less, root)), 1, before, after)
