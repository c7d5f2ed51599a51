"""Step-wise execution: a graph run from place to place over several batches; values are freed after their last use."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from graphprune.errors import InvariantError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import arguments_of, function_of
from graphprune.weights.stored import any_stored, look_ahead


class Stepper:
    """Runs a graph up to any node, for all batches, and holds what later nodes need.

    Parameters are read when a node runs, so that those of later nodes can be replaced in between. Memory is that of the
    values alive at the places where it halts, for all batches, and of one batch in between. `keep` names nodes whose
    values stay until they are forgotten; with `last` nothing after that node is run, and nothing is held for it.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Sequence[Sequence[Tensor]],
        keep: frozenset[str] = frozenset(),
        last: fx.Node | None = None,
    ) -> None:
        self.graph, self.keep = graph, keep
        self.order = nodes_until(graph.nodes, last)
        self.place = 0
        self.tensors = dict(graph.tensors())
        self.stored = any_stored(self.tensors.values())
        self.values: list[dict[fx.Node, Any]] = [{} for _ in inputs]
        self.inputs = [list(row) for row in inputs]
        self.position = {node: index for index, node in enumerate(self.order)}
        self.last = last_uses(self.order)
        self.dying: dict[fx.Node, list[fx.Node]] = {}
        for node, user in self.last.items():
            self.dying.setdefault(user, []).append(node)

    def fork(self) -> "Stepper":
        """One that goes on from here by itself: values are shared, what is done to them is not."""
        other = copy.copy(self)
        other.tensors, other.values = dict(self.tensors), [dict(values) for values in self.values]
        other.inputs = [list(row) for row in self.inputs]
        return other

    def advance(self, node: fx.Node, through: bool = True) -> None:
        """Run everything before this node that has not run yet, and the node itself where `through`."""
        end = max(self.place, self.position[node] + through)
        if self.stored:  # the next layer, where the graph is run layer by layer
            look_ahead(read_by(self.order[end : 2 * end - self.place], self.tensors))
        for index in range(len(self.values)):
            for each in self.order[self.place : end]:
                self.step(each, index)
        self.place = end

    def step(self, node: fx.Node, index: int) -> None:
        """Run a node on one batch, and free what it was the last to read."""
        if node.op == "output":
            return
        values = self.values[index]
        values[node] = self.run(node, values, index)
        for gone in self.dying.get(node, ()):
            if gone.name not in self.keep:
                values.pop(gone, None)
        if node not in self.last and node.name not in self.keep:
            values.pop(node)

    def run(self, node: fx.Node, values: Mapping[fx.Node, object], index: int) -> object:
        if node.op == "placeholder":
            return self.inputs[index].pop(0)
        if node.op == "get_attr":
            return self.tensors[str(node.target)]
        args, kwargs = arguments_of(node, values)
        return function_of(node)(*args, **kwargs)

    def value(self, node: fx.Node) -> list[Tensor]:
        """The node's value in every batch."""
        return [values[node] for values in self.values]

    def put(self, node: fx.Node, values: Sequence[Tensor]) -> None:
        """Go on with other values of a node that has run and is still read: one for every batch."""
        for held, value in zip(self.values, values, strict=True):
            if node not in held:
                raise InvariantError(f"the value of {node.name} is not held here, so that it cannot be replaced")
            held[node] = value

    def go_back(self, fork: "Stepper") -> None:
        """Run again from the place of a fork on, with the parameters as they are now; what was forgotten since stays
        only as long as it is read."""
        before = fork.fork()
        self.place, self.values, self.inputs = before.place, before.values, before.inputs
        for held in self.values:
            for node in held:
                if node.op == "get_attr":
                    held[node] = self.tensors[str(node.target)]

    def forget(self, node: fx.Node) -> None:
        """Free a value that was kept, now or after its last use."""
        self.keep -= {node.name}
        if self.position.get(self.last.get(node, node), 0) < self.place:
            for values in self.values:
                values.pop(node, None)

    def replace(self, name: str, tensor: Tensor) -> None:
        """Use another value for a parameter from here on."""
        self.tensors[name] = tensor
        for values in self.values:
            for node in values:
                if node.op == "get_attr" and str(node.target) == name:
                    values[node] = tensor


def read_by(nodes: Iterable[fx.Node], tensors: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """The graph's own tensors that these nodes read, each once."""
    names = {str(each.target): None for node in nodes for each in node.all_input_nodes if each.op == "get_attr"}
    return (tensors[name] for name in names)


def nodes_until(order: Sequence[fx.Node], last: fx.Node | None) -> Sequence[fx.Node]:
    """The nodes up to this one, or all."""
    return order if last is None else order[: order.index(last) + 1]


def last_uses(order: Sequence[fx.Node]) -> dict[fx.Node, fx.Node]:
    """The last node that reads each node's value."""
    return {source: node for node in order for source in node.all_input_nodes}
