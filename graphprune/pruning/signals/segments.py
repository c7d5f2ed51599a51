"""Segments: gradients of many batches through one part of a graph after the other, each read once for all batches.

Forward keeps what one segment hands to later ones; backward runs a segment again, from the last to the first, and takes
the gradients of its own leaves there. Memory is that of one segment at one batch, and of what is handed over for all,
which may wait on the disk; a weight is read three times in all, which is what counts where weights stay in their file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, fx

from graphprune.errors import DataError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import arguments_of, function_of
from graphprune.running.forms.causal import with_outputs
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.loss import Loss, output_loss
from graphprune.running.stepper import Stepper, read_by
from graphprune.weights.mapping import release
from graphprune.weights.shelf import is_large, shelve
from graphprune.weights.stored import look_ahead

Values = dict[fx.Node, Any]


@dataclass(frozen=True)
class Listener:
    """Who is told of gradients. Batches are named by their places.

    `leaf(batch, name, gradient)` is told of each leaf, `node(batch, name, value, gradient)` of each node that is
    watched, and `settled(names)`, once a segment is done, of the leaves and nodes that were told of for all batches.
    """

    leaf: Callable[[int, str, Tensor], None] = lambda *_: None
    node: Callable[[int, str, Tensor, Tensor], None] = lambda *_: None
    settled: Callable[[tuple[str, ...]], None] = lambda _: None


@dataclass(frozen=True, eq=False)
class Segment:
    """Neighbouring nodes, what they read of earlier segments, and what later ones read of them."""

    nodes: tuple[fx.Node, ...]
    entering: tuple[fx.Node, ...]
    leaving: tuple[fx.Node, ...]


def split_graph(graph: Graph, ends: Sequence[str]) -> tuple[Segment, ...]:
    """The segments of a graph, each up to and with one of these nodes; the last has what follows, and the outputs."""
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    chosen, parts, current = set(ends), list[list[fx.Node]](), list[fx.Node]()
    for node in nodes:
        current.append(node)
        if node.name in chosen:
            parts.append(current)
            current = []
    parts += [current] if current else []
    place = {node: number for number, part in enumerate(parts) for node in part}
    place |= dict.fromkeys((node for node in graph.nodes if node.op == "output"), len(parts) - 1)

    def make(number: int, part: list[fx.Node]) -> Segment:
        final = graph.returned if number == len(parts) - 1 else ()
        read = dict.fromkeys([*(each for node in part for each in node.all_input_nodes), *final])
        entering = tuple(each for each in read if place.get(each, number) < number)
        leaving = tuple(each for each in part if any(place.get(user, number) > number for user in each.users))
        return Segment(tuple(part), entering, leaving)

    return tuple(make(number, part) for number, part in enumerate(parts))


@final
class Segmented:
    """A graph's mean loss on batches, and its gradients by tensors and at nodes, segment by segment.

    `leaves` are tensors of the graph that take gradients, by names to tell of them by. `ends` are names of nodes.
    Without a `loss` it is that of the next token. With a folder, `shelf`, what segments hand over waits there.
    """

    def __init__(
        self,
        graph: Graph,
        leaves: Mapping[str, Tensor],
        ends: Sequence[str],
        loss: Loss | None = None,
        watched: frozenset[str] = frozenset(),
        shelf: Path | None = None,
    ) -> None:
        alone = loss is None and "logits" in graph.outputs
        self.graph = with_outputs(graph, ("logits",), (graph.results["logits"].name,)) if alone else graph
        self.loss, self.leaves, self.watched, self.shelf = loss, leaves, watched, shelf
        self.tensors = self.graph.tensors()
        named = {id(leaf): name for name, leaf in leaves.items()}
        attributes = [node for node in self.graph.nodes if node.op == "get_attr"]
        found = {node: named.get(id(self.tensors[str(node.target)])) for node in attributes}
        self.names = {node: name for node, name in found.items() if name is not None}
        self.segments = split_graph(self.graph, ends)
        self.active = depending(self.graph, {*self.names, *(n for n in self.graph.nodes if n.name in watched)})
        self.own = [self.leaves_of(segment) for segment in self.segments]

    def leaves_of(self, segment: Segment) -> tuple[str, ...]:
        """The leaves that a segment reads."""
        read = (self.names.get(each) for node in segment.nodes for each in node.all_input_nodes)
        return tuple(dict.fromkeys(name for name in read if name is not None))

    def shared(self) -> set[str]:
        """The leaves that several segments read: their gradients are held from one to the other, for every batch."""
        return {name for i, own in enumerate(self.own) for name in own if any(name in each for each in self.own[:i])}

    def backward(self, batches: Sequence[Batch], listener: Listener) -> None:
        """Tell of the gradient of each batch's mean loss. Raises DataError where a loss is not finite."""
        held = self.forward(batches)
        gradients: list[dict[fx.Node, Tensor]] = [{} for _ in batches]
        sums: list[dict[str, Tensor]] = [{} for _ in batches]
        for number, segment in reversed(list(enumerate(self.segments))):
            if number:
                look_ahead(read_by(self.segments[number - 1].nodes, self.tensors))
            whole = tuple(name for name in self.own[number] if not any(name in own for own in self.own[:number]))
            for place, batch in enumerate(batches):
                seen = self.go_back(segment, held[place], batch, gradients[place], sums[place])
                for node, value, gradient in seen:
                    listener.node(place, node.name, value, gradient)
                for name in whole:
                    if name in sums[place]:
                        listener.leaf(place, name, sums[place].pop(name))
                for node in segment.leaving:
                    held[place].pop(node)
                    gradients[place].pop(node, None)
            listener.settled((*whole, *(node.name for node in segment.nodes if node.name in self.watched)))

    def forward(self, batches: Sequence[Batch]) -> list[Values]:
        """What the graph takes and what each segment hands to later ones, for every batch."""
        inputs = [graph_inputs(self.graph, batch) for batch in batches]
        handed = (node.name for segment in self.segments for node in segment.leaving)
        kept = frozenset([*handed, *(node.name for node in self.graph.placeholders.values())])
        ends = [segment.nodes[-1] for segment in self.segments[:-1]] or [*self.graph.placeholders.values()][-1:]
        run = Stepper(self.graph, inputs, kept, ends[-1])
        waiting = set[fx.Node]()
        if self.shelf is not None:
            self.shelf.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            for node, segment in zip(ends, self.segments, strict=False):
                run.advance(node)
                if self.shelf is not None:
                    put_away(run, segment, self.shelf, waiting)
        return run.values

    def run(self, segment: Segment, values: Values) -> Values:
        """The values with all of a segment."""
        for node in segment.nodes:
            for each in node.all_input_nodes:
                if each.op == "get_attr":
                    values[each] = self.tensors[str(each.target)]
            args, kwargs = arguments_of(node, values)
            values[node] = function_of(node)(*args, **kwargs)
            if node.name in self.watched and not values[node].requires_grad:
                values[node].requires_grad_()
        return values

    def go_back(
        self,
        segment: Segment,
        held: Values,
        batch: Batch,
        gradients: dict[fx.Node, Tensor],
        sums: dict[str, Tensor],
    ) -> list[tuple[fx.Node, Tensor, Tensor]]:
        """Run a segment again and add to the gradients of what it reads; the values and gradients that are watched."""
        entering = {node: held[node].detach() for node in segment.entering if isinstance(held[node], Tensor)}
        wanted = {
            node: value.requires_grad_()
            for node, value in entering.items()
            if value.is_floating_point() and node in self.active
        }
        own = {name: self.leaves[name] for name in self.leaves_of(segment)}
        with torch.enable_grad():
            found = self.run(segment, held | entering)
            ends = [(found[node], gradients[node]) for node in segment.leaving if node in gradients]
            if segment is self.segments[-1]:
                loss = self.loss_of(found, batch)
                ends.append((loss, torch.ones_like(loss)))
            watched = [node for node in segment.nodes if node.name in self.watched]
            starts = [*wanted.values(), *own.values(), *(found[node] for node in watched)]
            results = list(gradients_of(ends, starts))
        for node, gradient in zip(wanted, results, strict=False):
            add(gradients, node, gradient)
        for name, gradient in zip(own, results[len(wanted) :], strict=False):
            add(sums, name, gradient)
        seen = [(node, found[node].detach()) for node in watched]
        ours = zip(seen, results[len(wanted) + len(own) :], strict=True)
        return [(n, value, torch.zeros_like(value) if found is None else found) for (n, value), found in ours]

    def loss_of(self, values: Values, batch: Batch) -> Tensor:
        outputs = tuple(values[node] for node in self.graph.returned)
        loss = output_loss(self.graph, outputs, batch, self.loss)
        if not bool(torch.isfinite(loss)):
            raise DataError(f"the loss on the calibration data is {loss.item()}; check the weights and the data")
        return loss


def put_away(run: Stepper, segment: Segment, shelf: Path, waiting: set[fx.Node]) -> None:
    """Let what a segment hands over wait on the shelf, and what it read of that go back there."""
    for values in run.values:
        for node in waiting.intersection(segment.entering):
            release(values[node])
        for node in segment.leaving:
            if isinstance(values.get(node), Tensor) and is_large(values[node]):
                values[node] = shelve(values[node].contiguous(), shelf)
                waiting.add(node)


def gradients_of(ends: Sequence[tuple[Tensor, Tensor]], starts: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The gradients by these tensors, None where nothing depends on one; of ends with their own gradients."""
    if not ends or not starts:
        return [None] * len(starts)
    return torch.autograd.grad([e for e, _ in ends], starts, [g for _, g in ends], allow_unused=True)


def add(totals: dict[Any, Tensor], key: object, gradient: Tensor | None) -> None:
    if gradient is not None:
        totals[key] = totals[key] + gradient if key in totals else gradient


def depending(graph: Graph, leaves: set[fx.Node]) -> set[fx.Node]:
    """The nodes whose values depend on one of these, themselves among them."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node in leaves or any(each in found for each in node.all_input_nodes):
            found.add(node)
    return found
