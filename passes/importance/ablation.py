"""Ablation importance: the loss without a layer, or a residual branch, minus the loss with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from graphprune.errors import DataError, UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.pruning.interfaces import Importance, Scene
from graphprune.pruning.kept_scores import name_scene
from graphprune.pruning.layer_runs import block_runs, only_blocks
from graphprune.pruning.search.journal import Journal
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import Batch
from graphprune.running.loss import Loss, batch_loss, predictions


@final
@dataclass(frozen=True)
class Ablation(Importance):
    """Take out each layer or branch by itself, and measure by how much the loss on the calibration text rises.

    The depth pruning by perplexity of Minitron (arXiv 2407.14679) and of SLEB. One run of the text for each candidate;
    what was measured is kept, and a run that was stopped goes on.
    """

    name: ClassVar[str] = "ablation"
    needs_data: ClassVar[bool] = True

    def score(self, scene: Scene) -> dict[str, Tensor]:
        raise only_blocks(self.name)

    def score_blocks(self, scene: Scene) -> dict[str, Tensor]:
        if not scene.batches:
            raise UsageError("ablation measures the loss on calibration text; give --data")
        parts = block_runs(scene.groups, scene.candidates)
        journal = Journal(None if scene.folder is None else scene.folder / f"ablation-{name_scene(self, scene)}.jsonl")

        def loss_without(*ids: str) -> float:
            def find() -> float:
                made = apply(scene.graph, Plan({}, ids)) if ids else scene.graph
                return mean_loss(made, scene.batches, scene.loss)

            return journal.value({"without": [*ids]}, find)

        whole = loss_without()
        scores: dict[str, Tensor] = {}
        for done, part in enumerate(parts):
            scene.progress(done, len(parts))
            rise = loss_without(*(branch.id for branch in part)) - whole
            scores |= {branch.id: torch.tensor([rise]) for branch in part}
        return {block.id: scores[block.id] for block in scene.candidates}


def mean_loss(graph: Graph, batches: Sequence[Batch], loss: Loss | None) -> float:
    """The mean loss of a prediction, in nats for text. Raises DataError where it is not finite."""
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            total += float(batch_loss(graph, batch, loss)) * predictions(batch)
            count += predictions(batch)
    if not total - total == 0:
        raise DataError("the loss on the calibration data is not finite; check the weights and the data")
    return total / max(1, count)
