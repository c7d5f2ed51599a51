"""Element-wise calls in ONNX compute what torch computes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graphprune import capture
from graphprune.artefacts import parity
from graphprune.artefacts.check_process import check_all
from graphprune.backends.onnx.backend import Onnx

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "square": torch.square,
    "min": lambda x: torch.min(x, x.flip(-1)),
    "max": lambda x: torch.max(x, x.flip(-1)),
    "reduced": lambda x: torch.min(x, -1).values,
    "log1p": lambda x: torch.log1p(x.abs()),
    "rms_norm": lambda x: nn.functional.rms_norm(x, (8,), torch.arange(8.0)),
    "ratio of integers": lambda x: x * (torch.arange(8) / 3 + (1 - torch.arange(8) * 2.5)),
    "var": lambda x: x * x.var(-1, keepdim=True) + x.var(dim=1, correction=0)[:, None],
    "std": lambda x: x * torch.std(x, -1, unbiased=False, keepdim=True) + x.std(1)[:, None],
    "reshape_as": lambda x: (x * 2).reshape_as(x.flatten().unsqueeze(0)),
    "broadcast_tensors": lambda x: sum(torch.broadcast_tensors(x, x[0], x[:, :1])),  # type: ignore[arg-type,return-value]
    "diff": lambda x: x[:, 1:] * x.diff() + x.diff(dim=-1, prepend=x[:, :1])[:, 1:] * x.diff(append=x[:, :1])[:, :7],
    "eye": lambda x: x.transpose(-1, -2) @ torch.eye(x.shape[0]) @ x,
    "one_hot": lambda x: nn.functional.one_hot((x[:, 0] > 0).long(), 3) * x[:, :3],
    "index": lambda x: x.transpose(0, -1)[torch.tensor([5, 0, -1, 5])],
    "index by rows of numbers": lambda x: x.T[(x[0, :2] > 0).long().unsqueeze(0)] + x.T[torch.tensor([[2, -3]])],
    "index by truth and by two": lambda x: x[torch.tensor([0, 1]), torch.tensor([3, 4])] * x[torch.tensor(1), :2],
    "index_add": lambda x: x.transpose(0, -1).index_add(0, torch.tensor([1] * 4 + [0] * 4), x.transpose(0, -1) * 2),
    "cumsum of truth": lambda x: x * (x > 0).cumsum(-1),
    "plain_rms_norm": lambda x: nn.functional.rms_norm(x, (8,), eps=1e-3),
}


class Calling(nn.Module):
    """A linear layer with one call behind it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.call = nn.Linear(8, 8), CALLS[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.linear(x))


@pytest.mark.parametrize("name", CALLS)
def test_the_onnx_model_computes_the_same(name: str, tmp_path: Path) -> None:
    graph = capture(Calling(name).eval(), inputs={"x": torch.randn(3, 8)})
    Onnx().export(graph, tmp_path)
    parity.save_reference(graph, tmp_path)
    checks = list(check_all(tmp_path))
    assert checks
    assert all(check.passed for check in checks), checks
