"""Losses of masks: all of a step on the same text, in one forward where rows are told apart, without gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy
import torch
from torch import Tensor

from graphprune.gates.gated import Gated
from graphprune.pruning.policy.bundles import Bundles, Masks, Numbers
from graphprune.pruning.search.mask_probe import own_outputs, repeated
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.loss import Loss, output_loss


@final
@dataclass(frozen=True, eq=False)
class MaskLosses:
    """The loss of each mask on the text of a step, drawn from `parts` by `seed`: what the text does, it does to all."""

    gated: Gated
    bundles: Bundles
    parts: Sequence[Batch]
    loss: Loss | None
    seed: int

    def __call__(self, masks: Masks, step: int) -> Numbers:
        chosen = int(numpy.random.default_rng((self.seed, step, 1)).integers(len(self.parts)))
        at_once = len(masks) if self.gated.told_apart else 1
        found = [self.run(some, self.parts[int(chosen)]) for some in numpy.split(masks, len(masks) // at_once)]
        return numpy.array([value for some in found for value in some], dtype=numpy.float64)

    @torch.inference_mode()
    def run(self, masks: Masks, batch: Batch) -> list[float]:
        """The losses of masks that go through together."""
        graph = self.gated.graph
        like = next(iter(graph.parameters().values()))
        outputs = self.gated(self.bundles.factors(masks, like), *graph_inputs(graph, repeated(batch, len(masks))))
        own = (own_outputs(graph, outputs, number, len(masks)) for number in range(len(masks)))
        return [float(output_loss(graph, each, batch, self.loss)) for each in own]


def parts_of(batches: Sequence[Batch], rows: int) -> tuple[Batch, ...]:
    """What one step may see: so many rows of token ids, or a whole batch of named tensors."""
    found = list[Batch]()
    for batch in batches:
        found += torch.split(batch, rows) if isinstance(batch, Tensor) else [batch]
    return tuple(found)
