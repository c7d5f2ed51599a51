"""Small models of texts: embeddings, something that mixes tokens in one of many ways, and logits."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.frontend.tracing.normalise import capture_module
from graphprune.ir.graph import Graph
from graphprune.ir.recurrence import linear_recurrence
from graphprune.models.contract import Contract
from graphprune.models.recurrent_scans import shifted

WIDTH, IDS = 8, 16
Mix = Callable[[Tensor, Tensor], Tensor]


class Text(nn.Module):
    """Embeddings, something that mixes tokens (and may look at the mask), and logits."""

    def __init__(self, mix: Mix) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(IDS, WIDTH)
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, IDS)
        self.kernel = nn.Parameter(torch.randn(WIDTH, 1, 4))
        self.mix = mix

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.last(torch.tanh(self.mix(self.first(self.table(input_ids)), attention_mask)))  # type: ignore[no-any-return]


@functools.cache
def graph_of(mix: Mix) -> Graph:
    """The graph of a text of any length, captured once a process."""
    ids = torch.randint(IDS, (2, 7))
    names = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    dynamic = {name: {0: "batch", 1: "sequence"} for name in names}
    return capture_module(Flat(Text(mix)).eval(), Contract(names, dynamic, ("logits",)))


class Flat(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.module(*inputs),)


def causal(mask: Tensor) -> Tensor:
    """True where a token may look: at itself and before, and not at padding."""
    places = torch.arange(mask.shape[1])
    return (places[None, None] <= places[None, :, None]) & mask[:, None].bool()


def heads(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:2], 2, WIDTH // 2).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def written_attention(x: Tensor, mask: Tensor) -> Tensor:
    scores = heads(x) @ heads(x).transpose(-1, -2) / math.sqrt(WIDTH)
    scores = scores.masked_fill(~causal(mask)[:, None], -1e9)
    return joined(scores.softmax(-1) @ heads(x * 2))


def fused_attention(x: Tensor, mask: Tensor) -> Tensor:
    keys = heads(x)[:, :1].expand(-1, 2, -1, -1)  # one head of keys for two of queries
    return joined(nn.functional.scaled_dot_product_attention(heads(x), keys, heads(x), causal(mask)[:, None]))


def einsum_attention(x: Tensor, mask: Tensor) -> Tensor:
    y = x.reshape(*x.shape[:2], 2, WIDTH // 2)
    scores = torch.einsum("bihd,bjhd->bhij", y, y).masked_fill(~causal(mask)[:, None], -1e9)
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), y).flatten(2)


def rows_alone(x: Tensor, mask: Tensor) -> Tensor:
    """Routing as experts do it: tokens of all texts in one dimension, the best features of each, and back."""
    flat = x.reshape(-1, WIDTH)
    weights, places = flat.softmax(-1).topk(2, -1)
    picked = flat.gather(1, places) * weights
    twice = flat.repeat_interleave(2, 0).reshape(-1, 2, WIDTH).sum(1)
    return (twice + picked.sum(-1, keepdim=True)).reshape(x.shape)


def pieces(x: Tensor, mask: Tensor) -> Tensor:
    a, b = x.split([3, 5], -1)
    stacked = torch.stack([a, b[..., :3]], 2).permute(0, 3, 1, 2)[..., 1]
    wide = torch.cat([a, b], -1).unsqueeze(1).squeeze(1)
    return wide + stacked.mean(1).unsqueeze(-1) + nn.functional.layer_norm(wide, (WIDTH,))


def positions(x: Tensor, mask: Tensor) -> Tensor:
    """Places counted from the mask, and from the length."""
    counted = (mask.cumsum(-1) - 1).clamp(min=0)
    table = torch.linspace(0, 1, 64 * WIDTH).reshape(64, WIDTH)
    return x + table[counted] + table[: x.shape[1]] + torch.arange(x.shape[1])[None, :, None] / 8


def shifts(x: Tensor, mask: Tensor) -> Tensor:
    return nn.functional.pad(x, (0, 0, 1, -1)) + shifted(x, 1, 0.0) * shifted(x * 2, 1, -3.0)


def running(x: Tensor, mask: Tensor) -> Tensor:
    return (
        x.cumsum(1) + torch.cummax(x, 1).values + torch.cummax(x.transpose(1, 2), 2).values.clamp(min=0).transpose(1, 2)
    )


def loop(x: Tensor, mask: Tensor) -> Tensor:
    y = heads(x)
    state = torch.zeros_like(y[:, :, 0, :, None] * y[:, :, 0, None])
    outputs, _ = linear_recurrence(y, y, y, -y[..., :1, None].abs(), state)
    return joined(outputs)


def window(x: Tensor, mask: Tensor) -> Tensor:
    kernel = torch.linspace(-1, 1, WIDTH * 4).reshape(WIDTH, 1, 4)
    wide = nn.functional.conv1d(x.transpose(1, 2), kernel, None, 1, 3, 1, WIDTH)
    return wide[..., : x.shape[1]].transpose(1, 2)


MIXES = [
    written_attention,
    fused_attention,
    einsum_attention,
    rows_alone,
    pieces,
    positions,
    shifts,
    running,
    loop,
    window,
]


def values(graph: Graph, ids: Tensor, mask: Tensor) -> dict[fx.Node, Any]:
    """What every node holds in one run."""
    found: dict[fx.Node, Any] = {}

    class Keeping(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            found[n] = super().run_node(n)
            return found[n]

    with torch.no_grad():
        Keeping(graph.module).run(ids, mask)
    return found
