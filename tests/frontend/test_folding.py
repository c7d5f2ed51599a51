"""What depends on constants alone is computed once, at capture."""

import torch
from torch import Tensor, nn

from graphprune import Graph, capture
from graphprune.frontend.tracing.folding import fold_constants
from tests.support.drafts import Drawing, check

_aten = torch.ops.aten


class Sparse(nn.Module):
    """A linear layer, and a threshold computed from a number as Gemma 3n does it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        lowest, share = torch.broadcast_tensors(torch.tensor(0.25), torch.tensor([0.5, 0.9]))
        return nn.functional.relu(x - (lowest + torch.erfinv(2 * share - 1))[1] * x.std(-1, keepdim=True))


def calls(graph: Graph) -> set[str]:
    return {str(node.target) for node in graph.nodes if node.op == "call_function"}


def test_lifted_constants_are_folded_through_tuples() -> None:
    graph, x = capture(Sparse().eval(), inputs={"x": torch.randn(3, 4)}), torch.randn(3, 4)
    assert not {name for name in calls(graph) if "erfinv" in name or "broadcast" in name or "getitem" in name}
    with torch.no_grad():
        torch.testing.assert_close(graph(x)[0], Sparse()(x))


def test_parameters_and_buffers_are_not_constants() -> None:
    """What a checkpoint loads stays computed with, however small."""
    module = Sparse()
    module.register_buffer("scale", torch.tensor(2.0))
    module.forward = lambda x: x * module.scale.sqrt()  # type: ignore[assignment,operator]
    assert "aten.sqrt.default" in calls(capture(module.eval(), inputs={"x": torch.randn(3, 4)}))


def test_a_table_is_computed_once() -> None:
    drawing = Drawing()
    x, numbers = drawing.input("x", 3), drawing.tensor("constants.numbers", torch.tensor([4.0, 9.0, 1.0]))
    table = drawing.call(_aten.neg.default, drawing.call(_aten.sqrt.default, numbers))
    before = """
  %0: float32[3] = sqrt(@constants.numbers)
  %1: float32[3] = neg(%0)
  %2: float32[3] = mul.Tensor(x, %1)
outputs
  output.0 = %2
"""
    after = """
  %0: float32[3] = mul.Tensor(x, @constants.1)
outputs
  output.0 = %0
"""
    draft = drawing.output(drawing.call(_aten.mul.Tensor, x, table))
    check(fold_constants, draft, 1, before, after)
    assert draft.tensors["constants.1"].tolist() == [-2.0, -3.0, -1.0]
