"""Layer by layer: units scored by what is read of them on a model that has lost those of the layers before."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from graphprune.analysis.groups import Group, Groups
from graphprune.ir.graph import Graph
from graphprune.pruning.activations.inputs_seen import Place, Seen, see_value
from graphprune.pruning.activations.unit_inputs import UnitInputs
from graphprune.pruning.selection import top_units
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.stepper import Stepper

Read = Mapping[str, Sequence[UnitInputs]]  # by the id of a group
Scoring = Callable[[Group, Mapping[Place, Seen]], Tensor]  # the scores of a group, from the moments of what is read


@dataclass(frozen=True, eq=False)
class Stage:
    """Groups that are cut at once. The first node that depends on what reads them has this place in the graph, and the
    last value that is read this one."""

    first: int
    last: int
    groups: tuple[Group, ...]


def score_layers(
    graph: Graph, groups: Groups, read: Read, batches: Sequence[Batch], counts: Mapping[str, int], score: Scoring
) -> dict[str, Tensor]:
    """The scores of each group in `read`, in two runs of the graph for all batches.

    All groups of a layer are measured, then those units of them with the largest scores are kept, so many as `counts`
    says, and the weights that read the others are zero from there on. A group that spans layers, as the width of the
    residual stream does, is measured along the way and stays whole. Memory is that of the values alive at one place.
    """
    if not read:
        return {}
    with torch.no_grad():
        return Walk(graph, read, batches).score(stages(graph, groups, read), groups, counts, score)


def stages(graph: Graph, groups: Groups, read: Read) -> list[Stage]:
    """The layers in graph order; those that run into each other, or share weights, are one stage."""
    layers = {branch.id: branch.layer for branch in groups.branches}
    by_layer: dict[int, list[Group]] = {}
    for group in groups.groups:
        if group.id in read and group.block is not None:
            by_layer.setdefault(layers[group.block], []).append(group)
    place = {node.name: index for index, node in enumerate(graph.nodes)}
    readers = readers_of(graph)
    found: list[Stage] = []
    for each in sorted((stage_of(layer, read, place, readers) for layer in by_layer.values()), key=lambda s: s.first):
        if found and each.first <= found[-1].last:
            before = found.pop()
            each = Stage(before.first, max(before.last, each.last), (*before.groups, *each.groups))
        found.append(each)
    return found


def stage_of(groups: Sequence[Group], read: Read, place: Mapping[str, int], readers: Mapping[str, int]) -> Stage:
    inputs = [each for group in groups for each in read[group.id]]
    first = min(min(readers[each.product.weight], place[each.product.node]) for each in inputs)
    return Stage(first, max(place[each.product.node] for each in inputs), tuple(groups))


def readers_of(graph: Graph) -> dict[str, int]:
    """For each tensor the place of the first node that reads it, by any of its names."""
    place, tensors = {node: index for index, node in enumerate(graph.nodes)}, graph.tensors()
    found: dict[int, int] = {}
    for node in graph.nodes:
        for user in node.users if node.op == "get_attr" else ():
            key = id(tensors[str(node.target)])
            found[key] = min(place[user], found.get(key, place[user]))
    return {name: found[id(tensor)] for name, tensor in tensors.items() if id(tensor) in found}


@final
class Walk:
    """One walk through a graph with all batches, which sees each value that is read as it comes by."""

    def __init__(self, graph: Graph, read: Read, batches: Sequence[Batch]) -> None:
        self.read, self.batches, self.nodes = read, tuple(batches), graph.nodes
        places = {(i.product.node, i.product.dim) for each in read.values() for i in each}
        self.place = {node.name: index for index, node in enumerate(self.nodes)}
        self.ahead = sorted(places, key=lambda place: self.place[place[0]])
        inputs = [graph_inputs(graph, batch) for batch in self.batches]
        names = frozenset(name for name, _ in places)
        self.run = Stepper(graph, inputs, names, self.nodes[self.place[self.ahead[-1][0]]])
        self.seen: dict[Place, Seen] = {}

    def score(
        self, stages: Iterable[Stage], groups: Groups, counts: Mapping[str, int], score: Scoring
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for stage in stages:
            self.see(stage.first - 1)
            self.run.advance(self.nodes[stage.first], through=False)
            mark = self.run.fork()
            self.see(stage.last)
            self.run.go_back(mark)
            for group in stage.groups:
                found[group.id] = score(group, self.seen)
                self.remove(group, top_units(group, counts.get(group.id, group.units), found[group.id]))
        self.see(len(self.nodes))
        return {id: found[id] if id in found else score(groups[id], self.seen) for id in self.read}

    def see(self, last: int) -> None:
        """Go on up to the last value at or before this place that is read, and take the moments of all."""
        while self.ahead and self.place[self.ahead[0][0]] <= last:
            name, dim = self.ahead.pop(0)
            node = self.nodes[self.place[name]]
            self.run.advance(node)
            self.seen[name, dim] = see_value((name, dim), self.batches, self.run.value(node))
            if all(other != name for other, _ in self.ahead):
                self.run.forget(node)

    def remove(self, group: Group, kept: Sequence[int]) -> None:
        """Let nothing be read of the other units from here on."""
        gone = torch.ones(group.units + 1, dtype=torch.bool)
        gone[[*kept, -1]] = False  # owner -1: inputs that belong to no unit of this group
        for inputs in self.read[group.id]:
            old = self.run.tensors[inputs.product.weight]
            new = old.detach().clone()
            new.movedim(inputs.product.weight_dim, -1)[..., gone[torch.from_numpy(inputs.owner)]] = 0
            for name in [name for name, tensor in self.run.tensors.items() if tensor is old]:
                self.run.replace(name, new)
