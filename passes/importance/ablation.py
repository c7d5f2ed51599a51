"""Ablation importance: the loss without a layer, or a residual branch, minus the loss with it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import ClassVar, final

import torch
from torch import Tensor

from graphprune.errors import DataError, UsageError
from graphprune.ir.graph import Graph
from graphprune.json_data import JsonObject
from graphprune.pruning.interfaces import Importance, Scene
from graphprune.pruning.kept_scores import name_scene
from graphprune.pruning.layer_runs import Part, block_runs, only_blocks
from graphprune.pruning.search.journal import Journal
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.loss import Loss, output_loss, predictions
from graphprune.running.stepper import Stepper


@final
@dataclass(frozen=True)
class Ablation(Importance):
    """Take out each layer or branch by itself, and measure by how much the loss on the calibration text rises.

    The depth pruning by perplexity of Minitron (arXiv 2407.14679) and of SLEB. For each candidate the text is run
    again from that place on: what lies before it is run once for all. What was measured is kept, and a run that was
    stopped goes on.
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
        totals, count = [0.0] * (len(parts) + 1), sum(map(predictions, scene.batches))
        for place, batch in enumerate(scene.batches):
            scene.progress(place, len(scene.batches))
            for number, loss in enumerate(kept_losses(journal, place, scene, parts)):
                totals[number] += loss * predictions(batch)
        whole, *without = (total / max(1, count) for total in totals)
        if not all(map(math.isfinite, (whole, *without))):
            raise DataError("the loss on the calibration data is not finite; check the weights and the data")
        rises = {branch.id: loss - whole for part, loss in zip(parts, without, strict=True) for branch in part}
        return {block.id: torch.tensor([rises[block.id]]) for block in scene.candidates}


def kept_losses(journal: Journal, place: int, scene: Scene, parts: Sequence[Part]) -> list[float]:
    """The losses of one batch, with all parts and then without each: as they are written, or as they are found now."""
    keys: list[JsonObject] = [{"batch": place, "without": part} for part in range(-1, len(parts))]
    known = all(map(journal.knows, keys))
    found = repeat(math.nan) if known else losses(scene.graph, parts, scene.batches[place], scene.loss)
    return [journal.value(key, lambda loss=loss: loss) for key, loss in zip(keys, found, strict=False)]  # type: ignore[misc]


def losses(graph: Graph, parts: Sequence[Part], batch: Batch, loss: Loss | None) -> Iterator[float]:
    """The loss of a batch, and then the loss without each part, in their order: nothing of it is added to the stream.

    Parts come in the order of the graph, as `block_runs` gives them.
    """
    nodes = {node.name: node for node in graph.nodes}
    returned = frozenset(node.name for node in graph.returned)
    run = Stepper(graph, [graph_inputs(graph, batch)], returned)

    def rest(stepper: Stepper) -> float:
        stepper.advance(graph.nodes[-1])
        values = tuple(stepper.value(node)[0] for node in graph.returned)
        return float(output_loss(graph, values, batch, loss))

    with torch.no_grad():
        yield rest(run.fork())
        for part in parts:
            first, *others = sorted((nodes[branch.branch] for branch in part), key=run.position.__getitem__)
            run.advance(first)
            without = run.fork()
            for term in (first, *others):
                without.advance(term)
                without.put(term, [torch.zeros_like(value) for value in without.value(term)])
            yield rest(without)
