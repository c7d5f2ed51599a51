"""Without: the loss of a batch without each layer or branch; what lies before it is run once for all."""

import math
from collections.abc import Iterator, Sequence
from itertools import repeat

import torch

from graphprune.ir.graph import Graph
from graphprune.json_data import JsonObject
from graphprune.pruning.interfaces import Scene
from graphprune.pruning.layer_runs import Part
from graphprune.pruning.search.journal import Journal
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.loss import Loss, output_loss
from graphprune.running.stepper import Stepper


def kept_losses(
    journal: Journal, place: int, batch: Batch, scene: Scene, loss: Loss | None, parts: Sequence[Part]
) -> list[float]:
    """The losses of one batch, with all parts and then without each: as they are written, or as they are found now."""
    keys: list[JsonObject] = [{"batch": place, "without": part} for part in range(-1, len(parts))]
    known = all(map(journal.knows, keys))
    found = repeat(math.nan) if known else losses(scene.graph, parts, batch, loss)
    return [journal.value(key, lambda each=each: each) for key, each in zip(keys, found, strict=False)]  # type: ignore[misc]


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
