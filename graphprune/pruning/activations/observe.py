"""Observe: statistics of what a graph computes on the calibration data, in one run and without keeping activations."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from graphprune.ir.graph import Graph
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.stepper import Stepper

Name = TypeVar("Name", bound=Hashable)
# From one batch and the values of the nodes there, a statistic that adds up over batches: float64.
Reduction = Callable[..., Tensor]


@dataclass(frozen=True)
class Reading:
    """What is read of some nodes together: `reduce(batch, *values)` gives what adds up over batches."""

    nodes: tuple[str, ...]
    reduce: Reduction


def observe(
    graph: Graph,
    readings: Mapping[Name, Reading],
    batches: Sequence[Batch],
    report: Callable[[int, int], None] = lambda *_: None,
) -> dict[Name, Tensor]:
    """The sum over batches of each reading, by its name; one run of the graph for all, no further than the last node.

    Values are freed as soon as nothing reads them any more: memory is that of one batch at one place.
    `report(done, total)` is told of batches. Nothing is found where there are no batches.
    """
    totals: dict[Name, Tensor] = {}
    for done, batch in enumerate(batches):
        report(done, len(batches))
        with torch.no_grad():
            for name, found in read_batch(graph, readings, batch):
                totals[name] = totals[name] + found if name in totals else found
    return totals


def read_batch(graph: Graph, readings: Mapping[Name, Reading], batch: Batch) -> Iterator[tuple[Name, Tensor]]:
    """Every reading of one batch, each as soon as the last of its nodes has run."""
    nodes = graph.nodes
    place = {node.name: index for index, node in enumerate(nodes)}
    ready = {name: max(place[node] for node in reading.nodes) for name, reading in readings.items()}
    order = sorted(readings, key=lambda name: ready[name])
    last = {node: name for name in order for node in readings[name].nodes}
    end = nodes[ready[order[-1]]] if order else nodes[0]
    run = Stepper(graph, [graph_inputs(graph, batch)], frozenset(last), end)
    for name in order:
        run.advance(nodes[ready[name]])
        yield name, readings[name].reduce(batch, *(run.value(nodes[place[node]])[0] for node in readings[name].nodes))
        for node in readings[name].nodes:
            if last[node] == name:
                run.forget(nodes[place[node]])
