"""Runs of layers: neighbours in one stream, and the angle by which they turn it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from graphprune.analysis.groups import Branch, Group, Groups
from graphprune.analysis.layers import find_layers, find_streams
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.pruning.activations.observe import Reading, observe
from graphprune.pruning.interfaces import Scene
from graphprune.pruning.signals.stream_change import UNMEASURED, cosine, mean_of, sum_measured
from graphprune.running.inputs import Batch

Part = tuple[Branch, ...]  # a layer, or one branch


@dataclass(frozen=True)
class Run:
    """Neighbouring layers or branches: all between the stream at one node and the stream at another."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, *parts: Part) -> "Run":
        return cls(parts)

    @property
    def ids(self) -> tuple[str, ...]:
        """The branches that go with the run."""
        return tuple(branch.id for part in self.parts for branch in part)


def block_runs(groups: Groups, candidates: Sequence[Group]) -> tuple[Part, ...]:
    """The layers, or the branches, that the candidates are, in graph order."""
    chosen = {candidate.id for candidate in candidates}
    if any(candidate.tie is not None for candidate in candidates):
        return tuple(layer for layer in find_layers(groups) if any(branch.id in chosen for branch in layer))
    return tuple((branch,) for branch in groups.branches if branch.id in chosen)


def join_parallel(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts, those of one addition as one: neither lies before the other."""
    return tuple(tuple(branch for part in same for branch in part) for _, same in groupby(parts, lambda p: p[0].add))


def find_runs(graph: Graph, groups: Groups, parts: Sequence[Part], length: int) -> tuple[Run, ...]:
    """Every run of so many of these parts that have nothing else between them, in graph order."""
    nodes = {node.name: node for node in graph.nodes}
    flow = find_streams(graph, groups.branches)
    place = {branch.id: number for number, branch in enumerate(groups.branches)}

    def adjoin(one: Part, other: Part) -> bool:
        same = flow[nodes[one[-1].add]] == flow[nodes[other[0].add]]
        return same and place[other[0].id] == place[one[-1].id] + 1

    starts = range(len(parts) - length + 1)
    runs = [Run(tuple(parts[start : start + length])) for start in starts]
    return tuple(run for run in runs if all(adjoin(a, b) for a, b in zip(run.parts, run.parts[1:], strict=False)))


def measure_angles(scene: Scene, runs: Sequence[Run], what: str) -> list[float]:
    """The angle between the stream before and behind each run, over pi, at the last token: a mean over rows.

    Raises UsageError without text.
    """
    if not scene.batches:
        raise UsageError(f"{what} measures layers on calibration text; give --data")

    def turn(alone: bool, _: Batch, before: Tensor, after: Tensor) -> Tensor:
        ends = (x[:, -1] if x.ndim > 2 else x for x in (before, before + after if alone else after))
        return sum_measured(torch.arccos(cosine(*ends)) / math.pi)

    readings = {}
    for place, run in enumerate(runs):
        (first, *_), (*_, last) = run.parts[0], run.parts[-1]
        alone = len(run.ids) == 1  # of branches in parallel each is measured by itself
        readings[place] = Reading((first.skip, last.branch if alone else last.add), partial(turn, alone))
    found = observe(scene.graph, readings, scene.batches)
    if any(turns[2] > 0 for turns in found.values()):
        scene.note(UNMEASURED)
    return [mean_of(found[place]) for place in readings]


def only_blocks(name: str) -> UsageError:
    """What an importance of layers says where it is to score units."""
    return UsageError(f"{name} scores layers and residual branches alone; use it with --prune layers or --prune blocks")
