"""Complex numbers become pairs of real ones: graph and ONNX compute the same, and rotary pairs can be cut."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graphprune import Graph, analyze, capture
from graphprune.artefacts import parity
from graphprune.artefacts.check_process import check_all
from graphprune.backends.onnx.backend import Onnx
from graphprune.frontend.tracing.complex_pairs import complex_to_pairs
from tests.support.drafts import Drawing, check

_aten = torch.ops.aten


def rotated(x: Tensor, factor: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * factor).flatten(-2)


def unit(x: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(x), x)


def as_complex(x: Tensor) -> Tensor:
    return torch.complex(x[:, :4], x[:, 4:])


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "rotary": lambda x: rotated(x, unit(x[:, :4])),
    "fixed angles": lambda x: rotated(x, unit(torch.arange(4.0))),
    "scaled": lambda x: rotated(x, unit(x[:, :4]) * 0.5),
    "by a number": lambda x: rotated(x, unit(x[:, :4]) * (2 - 1j)),
    "sums": lambda x: torch.view_as_real(as_complex(x) + x[:1, :4] - as_complex(x) * 1j - 2.0).sum(-1).repeat(1, 2),
    "conjugate": lambda x: (as_complex(x) * as_complex(x).conj() / 3).real.repeat(1, 2),
    "modulus": lambda x: (as_complex(x).abs() + as_complex(x).imag).repeat(1, 2),
    "moves": lambda x: torch.view_as_real(torch.cat([as_complex(x).T, as_complex(x)[:2].T], 1)[:, :3].T).flatten(-2),
}


class Calling(nn.Module):
    """Two linear layers with complex numbers between them."""

    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.form = nn.Linear(8, 8), nn.Linear(8, 8), form

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.form(self.up(x)))


def captured(name: str) -> Graph:
    return capture(Calling(FORMS[name]).eval(), inputs={"x": torch.randn(3, 8)})


@pytest.mark.parametrize("name", FORMS)
def test_pairs_compute_the_same(name: str, tmp_path: Path) -> None:
    x = torch.randn(3, 8)
    graph = captured(name)
    assert not any(getattr(n.meta.get("value"), "dtype", x.dtype).is_complex for n in graph.nodes)
    with torch.no_grad():
        torch.testing.assert_close(graph(x)[0], Calling(FORMS[name])(x))
    Onnx().export(graph, tmp_path)
    parity.save_reference(graph, tmp_path)
    assert all(check.passed for check in check_all(tmp_path))


def test_a_pair_is_one_unit() -> None:
    """What turns together is cut together: four pairs between the layers, each of two rows."""
    group = next(g for g in analyze(captured("fixed angles")).groups if g.units == 4 and not g.locked)
    assert {len(slot.indices(u)) for slot in group.slots for u in range(4) if ".weight" in slot.name} == {2}


def test_an_unknown_complex_call_leaves_the_graph_alone() -> None:
    module = Calling(lambda x: torch.fft.fft(x).real)
    graph = capture(module.eval(), inputs={"x": torch.randn(3, 8)})
    x = torch.randn(3, 8)
    with torch.no_grad():
        torch.testing.assert_close(graph(x)[0], module(x))
    assert any("no axis rule" in (g.locked or "") for g in analyze(graph).groups)


def test_a_complex_product_is_written_in_real_numbers() -> None:
    drawing = Drawing()
    number = drawing.call(_aten.view_as_complex.default, drawing.input("x", 3, 2))
    before = """
  %0: complex64[3] = view_as_complex(x)
  %1: complex64[3] = mul.Tensor(%0, 2j)
  %2: float32[3, 2] = view_as_real(%1)
outputs
  output.0 = %2
"""
    after = """
  %0: float32[3] = select.int(x, -1, 0)
  %1: float32[3] = select.int(x, -1, 1)
  %2: float32[3] = mul.Tensor(%0, 0.0)
  %3: float32[3] = mul.Tensor(%1, 2.0)
  %4: float32[3] = sub.Tensor(%2, %3)
  %5: float32[3] = mul.Tensor(%0, 2.0)
  %6: float32[3] = mul.Tensor(%1, 0.0)
  %7: float32[3] = add.Tensor(%5, %6)
  %8: float32[3, 2] = stack([%4, %7], -1)
outputs
  output.0 = %8
"""
    turned = drawing.call(_aten.mul.Tensor, number, 2j)
    check(complex_to_pairs, drawing.output(drawing.call(_aten.view_as_real.default, turned)), 3, before, after)
