"""What image models call computes in ONNX what it computes in torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune import capture
from graphprune.backends.onnx.backend import Onnx
from graphprune.backends.runtime.runner import load

CALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "same padding": lambda x, w: functional.conv2d(x, w, padding="same"),
    "same padding, dilated": lambda x, w: functional.conv2d(x, w, padding="same", dilation=2),
    "valid padding": lambda x, w: functional.conv2d(x, w, padding="valid", stride=2),
    "pooled to one": lambda x, w: functional.adaptive_avg_pool2d(x, 1) * w.sum(),
    "pooled unevenly": lambda x, w: functional.adaptive_avg_pool2d(x, (3, 5)) * w.sum(),
    "pooled in one dimension": lambda x, w: functional.adaptive_avg_pool1d(x.flatten(2), 5) * w.sum(),
    "pooled to what it was": lambda x, w: functional.adaptive_avg_pool2d(x, (7, None)) * w.sum(),
    "standardised weight": lambda x, w: functional.conv2d(
        x, functional.batch_norm(w.reshape(1, 4, -1), None, None, training=True).reshape(w.shape)
    ),
    "transposed": lambda x, w: functional.conv_transpose2d(x, w[:3], stride=2, padding=1, output_padding=1),
    "transposed in groups": lambda x, w: functional.conv_transpose2d(x, w[:3, :1], w[0, :, 0, 0], groups=3),
    "swapped": lambda x, w: functional.conv2d(x.swapaxes(2, 3), w),
    "norm without weights": lambda x, w: functional.batch_norm(x, w[0, :, 0, 0], w[0, :, 0, 1].abs() + 1),
}


class Calling(nn.Module):
    """One call on an image and a weight."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.call = nn.Parameter(torch.randn(4, 3, 3, 3)), CALLS[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.weight)


@pytest.mark.parametrize("name", CALLS)
def test_the_call_is_written(name: str, tmp_path: Path) -> None:
    graph = capture(Calling(name).eval(), inputs={"x": torch.randn(2, 3, 7, 7)})
    Onnx().export(graph, tmp_path)
    image = torch.randn(3, 3, 7, 7)
    with torch.no_grad():
        (wanted,) = graph(image)
    found = load(tmp_path, "cpu").infer({"x": image.numpy()})["output.0"]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-5)
