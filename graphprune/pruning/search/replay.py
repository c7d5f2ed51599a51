"""Replay: one graph run again and again over the same batches, from the last place before what has changed."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx

from graphprune.ir.graph import Graph
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.stepper import Stepper

# From the outputs of a batch, and its place among the batches, to a number: the sum over what it predicts.
Judge = Callable[[tuple[Tensor, ...], int], float]
Absent = frozenset[fx.Node]  # terms of sums that add nothing


class Replay:
    """Runs a graph with other values of some parameters; `settle` says which values the next runs are close to.

    `absent` names residual branches that add nothing, by the nodes of what they would add.

    At `marks` what is alive is kept for the settled values: a run that changes only what is read behind a mark begins
    there. Memory is that of the values alive at all marks, for all batches.
    """

    def __init__(self, graph: Graph, batches: Sequence[Batch], marks: Sequence[fx.Node], judge: Judge) -> None:
        self.graph, self.batches, self.judge = graph, batches, judge
        self.position = position = {node: index for index, node in enumerate(graph.nodes)}
        self.marks = sorted(marks, key=lambda node: position[node])
        self.ends = [position[mark] for mark in self.marks]
        self.reads: dict[str, int] = {}
        for node in graph.module.graph.find_nodes(op="get_attr"):
            first = min((position[user] for user in node.users), default=len(position))
            self.reads[str(node.target)] = min(first, self.reads.get(str(node.target), first))
        self.kept: list[list[Stepper]] = []
        self.settled: Mapping[str, Tensor] = {}
        self.absent: Absent = frozenset()

    def settle(self, tensors: Mapping[str, Tensor], absent: Absent = frozenset()) -> float:
        """Keep what is alive at the marks with these values; returns what `run` does."""
        self.settled, self.absent, self.kept, total = tensors, absent, [], 0.0
        for index in range(len(self.batches)):
            stepper, alive = self.begin(index, tensors), list[Stepper]()
            with torch.no_grad():
                for mark in self.marks:
                    advance(stepper, mark, absent)
                    alive.append(stepper.fork())
                total += self.finish(stepper, index, absent)
            self.kept.append(alive)
        return total

    def run(
        self, tensors: Mapping[str, Tensor], changed: Sequence[str] | None = None, absent: Absent = frozenset()
    ) -> float:
        """The sum of what `judge` says with these values; `changed` names those that are not the settled ones."""
        first = 0 if changed is None else self.first_change(changed, absent)
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
                total += self.finish(stepper, index, absent)
        return total

    def first_change(self, changed: Sequence[str], absent: Absent) -> int:
        """The place of the first node that has another value than with what is settled."""
        toggled = (self.position[node] for node in absent ^ self.absent)
        return min((*(self.reads[name] for name in changed), *toggled), default=len(self.graph.nodes))

    def begin(self, index: int, tensors: Mapping[str, Tensor]) -> Stepper:
        returned = frozenset(node.name for node in self.graph.returned)
        stepper = Stepper(self.graph, [graph_inputs(self.graph, self.batches[index])], returned)
        for name, tensor in tensors.items():
            stepper.replace(name, tensor)
        return stepper

    def finish(self, stepper: Stepper, index: int, absent: Absent) -> float:
        advance(stepper, self.graph.nodes[-1], absent)
        values = tuple(stepper.value(node)[0] for node in self.graph.returned)
        return self.judge(values, index)


def advance(stepper: Stepper, end: fx.Node, absent: Absent) -> None:
    """Run up to a node, with zeros in the place of what is absent on the way."""
    place = stepper.position
    for term in sorted(absent, key=place.__getitem__):
        if stepper.place <= place[term] <= place[end]:
            stepper.advance(term)
            stepper.put(term, [torch.zeros_like(value) for value in stepper.value(term)])
    stepper.advance(end)
