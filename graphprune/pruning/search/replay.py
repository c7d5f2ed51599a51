"""Replay: one graph run again and again over the same batches, from the last place before what has changed."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx

from graphprune.ir.graph import Graph
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.stepper import Stepper

# From the outputs of a batch, and its place among the batches, to a number: the sum over what it predicts.
Judge = Callable[[tuple[Tensor, ...], int], float]


class Replay:
    """Runs a graph with other values of some parameters; `settle` says which values the next runs are close to.

    At `marks` what is alive is kept for the settled values: a run that changes only what is read behind a mark begins
    there. Memory is that of the values alive at all marks, for all batches.
    """

    def __init__(self, graph: Graph, batches: Sequence[Batch], marks: Sequence[fx.Node], judge: Judge) -> None:
        self.graph, self.batches, self.judge = graph, batches, judge
        position = {node: index for index, node in enumerate(graph.nodes)}
        self.marks = sorted(marks, key=lambda node: position[node])
        self.ends = [position[mark] for mark in self.marks]
        self.reads: dict[str, int] = {}
        for node in graph.module.graph.find_nodes(op="get_attr"):
            first = min((position[user] for user in node.users), default=len(position))
            self.reads[str(node.target)] = min(first, self.reads.get(str(node.target), first))
        self.kept: list[list[Stepper]] = []
        self.settled: Mapping[str, Tensor] = {}

    def settle(self, tensors: Mapping[str, Tensor]) -> float:
        """Keep what is alive at the marks with these values; returns what `run` does."""
        self.settled, self.kept, total = tensors, [], 0.0
        for index in range(len(self.batches)):
            stepper, alive = self.begin(index, tensors), list[Stepper]()
            with torch.no_grad():
                for mark in self.marks:
                    stepper.advance(mark)
                    alive.append(stepper.fork())
                total += self.finish(stepper, index)
            self.kept.append(alive)
        return total

    def run(self, tensors: Mapping[str, Tensor], changed: Sequence[str] | None = None) -> float:
        """The sum of what `judge` says with these values; `changed` names those that are not the settled ones."""
        first = 0 if changed is None else min((self.reads[name] for name in changed), default=len(self.graph.nodes))
        whole = tensors if changed is None else {**self.settled, **tensors}
        place = sum(end < first for end in self.ends) - 1
        total = 0.0
        for index in range(len(self.batches)):
            if place < 0 or not self.kept:
                stepper = self.begin(index, whole)
            else:
                stepper = self.kept[index][place].fork()
                for name in changed or ():
                    stepper.replace(name, tensors[name])
            with torch.no_grad():
                total += self.finish(stepper, index)
        return total

    def begin(self, index: int, tensors: Mapping[str, Tensor]) -> Stepper:
        returned = frozenset(node.name for node in self.graph.returned)
        stepper = Stepper(self.graph, [graph_inputs(self.graph, self.batches[index])], returned)
        for name, tensor in tensors.items():
            stepper.replace(name, tensor)
        return stepper

    def finish(self, stepper: Stepper, index: int) -> float:
        stepper.advance(self.graph.nodes[-1])
        values = tuple(stepper.value(node)[0] for node in self.graph.returned)
        return self.judge(values, index)
