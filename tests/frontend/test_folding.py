"""What depends on constants alone is computed once, at capture."""

import torch
from torch import Tensor, nn

from graphprune import Graph, capture


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


class Chosen(nn.Module):
    """The largest of six scores, looked up in a table after bounds on their places."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high, self.table = low, high, nn.Parameter(torch.randn(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        places = x.topk(2, dim=-1)[1].reshape(-1)
        return self.table[places.clamp(self.low, self.high)]


def test_bounds_that_picked_places_keep_anyway_are_left_out() -> None:
    """So the places stay those of an axis, as transformers 5.17 bounds the experts that a router picked."""
    for low, high, there in ((0, 5, False), (-1, 9, False), (0, 4, True), (1, 5, True)):
        module, x = Chosen(low, high).eval(), torch.randn(4, 6)
        graph = capture(module, inputs={"x": torch.randn(3, 6)})
        assert ("aten.clamp.default" in calls(graph)) is there
        with torch.no_grad():
            torch.testing.assert_close(graph(x)[0], module(x))
