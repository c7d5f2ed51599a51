"""Low-rank tuning of weights in 4 bits: adapters that read sums over blocks of inputs, and so merge into the offsets.

Where y = W x and W lies on a grid, an adapter that adds s B A p to y, p the sums of x over the grid's blocks, changes
every entry of a block by as much. So W stays on its grid, with offsets moved by -s (B A) / scale.
Source: QA-LoRA, Xu et al., arXiv 2309.14717, as SAAP's recovery (arXiv 2412.15127).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import final

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import linear, pad

from graphprune.errors import UsageError
from graphprune.ir.graph import Graph, deep_copy, get_tensor
from graphprune.training.adapters import Trainee, chosen_calls, is_transposed, weight_and_bias, with_layers
from graphprune.training.options import LoraOptions
from graphprune.weights.grids import GRID, Grid, find_grid, fit_grid
from graphprune.weights.patterns import kept_entries


@final
class GridLinear(nn.Module):
    """A linear layer whose weight lies on a grid and is frozen, with an adapter unless `options` is None.

    The weight is [outputs, inputs], or [inputs, outputs] where `transposed`. The adapter begins at nothing.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, grid: Grid, transposed: bool, options: LoraOptions | None
    ) -> None:
        super().__init__()
        self.weight, self.bias, self.grid, self.transposed = weight, bias, grid, transposed
        self.scaling = 0.0 if options is None else options.alpha / options.rank
        self.dropout = nn.Dropout(0.0 if options is None else options.dropout)
        if options is not None:
            outputs, blocks = grid.scale.shape
            reach = 1 / math.sqrt(grid.codes.shape[1])
            self.down = nn.Parameter(torch.empty(options.rank, blocks).uniform_(-reach, reach).to(weight))
            self.up = nn.Parameter(torch.zeros(outputs, options.rank).to(weight))

    def forward(self, x: Tensor) -> Tensor:
        result = linear(x, self.weight.t() if self.transposed else self.weight, self.bias)
        if not self.scaling:
            return result
        return result + self.scaling * linear(linear(self.dropout(sums(x, self.grid.block)), self.down), self.up)

    def merged(self) -> Grid:
        """The grid with the adapter in its offsets."""
        return self.grid.moved(self.scaling * (self.up @ self.down).detach()) if self.scaling else self.grid

    def oriented(self, matrix: Tensor) -> Tensor:
        """What is [outputs, inputs] as the weight is stored."""
        return matrix.t().contiguous() if self.transposed else matrix


def sums(x: Tensor, block: int) -> Tensor:
    """The sums over blocks of the last dimension: [.., blocks]."""
    width = x.shape[-1]
    return pad(x, (0, -width % block)).view(*x.shape[:-1], -1, block).sum(-1)


def on_grids(graph: Graph, options: LoraOptions, seed: int) -> Trainee:
    """Train adapters on a copy of the graph whose linear layers lie on grids of 4 bits; all else is frozen.

    Every linear layer is put on its grid, the head too where no table of embeddings is tied to it, in blocks of
    `options.block` inputs; one that lies on such a grid stays there. Those of the targets, by default all, have an
    adapter. Raises UsageError for targets that do not occur, and for weights with a pattern of zeros.
    """
    if kept_entries(graph.companions):
        raise UsageError(
            "lora_block of recover moves all weights of a block, so that zeros would not stay; leave it out"
        )
    copy = deep_copy(graph)
    for parameter in copy.parameters().values():
        parameter.requires_grad_(False)
    calls = chosen_calls(copy, (), head=True)
    adapted = set(chosen_calls(copy, options.targets, head=True))
    known = {kind: copy.companions.get(kind, {}) for kind in GRID}
    with torch.random.fork_rng():
        torch.manual_seed(seed)

        def make(layer: str, root: nn.Module, node: fx.Node) -> nn.Module:
            found = [known[kind].get(f"{layer}.weight") for kind in GRID]
            beside = [each for each in found if each is not None]
            return make_layer(root, node, beside, options, layer in adapted)

        module = with_layers(copy, calls, {layer: partial(make, layer) for layer in calls})
    layers: dict[str, GridLinear] = {layer: module.get_submodule(layer) for layer in calls}  # type: ignore[misc]
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return Trainee(
        replace(copy, module=module),
        trainable,
        lambda: {f"{name}.weight": layer.oriented(layer.merged().values()) for name, layer in layers.items()},
        lambda: merged_companions(layers),
        lambda: forget(layers),
    )


def make_layer(
    root: nn.Module, node: fx.Node, beside: Sequence[Tensor], options: LoraOptions, adapted: bool
) -> GridLinear:
    """A layer around the parameters that a node reads; the weight takes its values on the grid.

    `beside` are the companions of a grid that it may lie on already.
    """
    operand, bias = weight_and_bias(node)
    assert isinstance(operand, fx.Node)
    weight, transposed = get_tensor(root, str(operand.target)), is_transposed(node)
    matrix = weight.detach().t() if transposed else weight.detach()
    beside = [each.t() if transposed else each for each in beside]
    known = find_grid(matrix, beside, options.block) if len(beside) == len(GRID) else None
    grid = known or fit_grid(matrix, options.block)
    values = get_tensor(root, str(bias.target)) if isinstance(bias, fx.Node) else None
    layer = GridLinear(weight, values, grid, transposed, options if adapted else None)
    weight.data = layer.oriented(grid.values())
    return layer


def merged_companions(layers: Mapping[str, GridLinear]) -> Mapping[str, Mapping[str, Tensor]]:
    """The companions of every layer's weight, by kind and name."""
    found = {f"{name}.weight": (layer, layer.merged().companions()) for name, layer in layers.items()}
    return {kind: {name: layer.oriented(beside[kind]) for name, (layer, beside) in found.items()} for kind in GRID}


def forget(layers: Mapping[str, GridLinear]) -> None:
    """Let every adapter add nothing, as before the first step."""
    with torch.no_grad():
        for layer in layers.values():
            if layer.scaling:
                layer.up.zero_()
