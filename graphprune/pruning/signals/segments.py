"""Segments: gradients of many batches through one part of a graph after the other, each read once for all batches.

Forward keeps what one segment hands to later ones; backward runs a segment again, from the last to the first, and takes
the gradients of its own leaves there. Memory is that of one segment at one batch, and of what is handed over for all;
a weight is read three times in all, which is what counts where weights stay in their file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, fx

from graphprune.errors import DataError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import arguments_of, function_of
from graphprune.running.causal import with_outputs
from graphprune.running.inputs import graph_inputs
from graphprune.running.loss import predict
from graphprune.running.stepper import last_uses

Values = dict[fx.Node, Any]
Receive = Callable[[str, Tensor], None]  # the name of a leaf, and its gradient for a batch
_TOKENS = 512  # that are in a segment at a time, unless a row has more


def small_batches(batches: Sequence[Tensor]) -> list[Tensor]:
    """The same rows, fewer at a time."""
    return [part for batch in batches for part in torch.split(batch, max(1, _TOKENS // batch.shape[1]))]


@dataclass(frozen=True, eq=False)
class Segment:
    """Neighbouring nodes, what they read of earlier segments, and what later ones read of them."""

    nodes: tuple[fx.Node, ...]
    entering: tuple[fx.Node, ...]
    leaving: tuple[fx.Node, ...]


def split_graph(graph: Graph, ends: Sequence[str]) -> tuple[Segment, ...]:
    """The segments of a graph, each up to and with one of these nodes; the last has what follows."""
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    chosen, parts, current = set(ends), list[list[fx.Node]](), list[fx.Node]()
    for node in nodes:
        current.append(node)
        if node.name in chosen:
            parts.append(current)
            current = []
    parts += [current] if current else []
    place = {node: number for number, part in enumerate(parts) for node in part}

    def make(number: int, part: list[fx.Node]) -> Segment:
        read = dict.fromkeys(each for node in part for each in node.all_input_nodes)
        entering = tuple(each for each in read if place.get(each, number) < number)
        leaving = tuple(each for each in part if any(place.get(user, number) > number for user in each.users))
        return Segment(tuple(part), entering, leaving)

    return tuple(make(number, part) for number, part in enumerate(parts))


@final
class Segmented:
    """A language model's mean next-token loss on batches of token ids, and its gradients, segment by segment.

    `leaves` are tensors that the graph reads by these names, and take the gradients. `ends` are names of nodes.
    """

    def __init__(self, graph: Graph, leaves: Mapping[str, Tensor], ends: Sequence[str]) -> None:
        self.graph = with_outputs(graph, ("logits",), (graph.results["logits"].name,))
        self.leaves, self.tensors = leaves, self.graph.tensors()
        self.segments = split_graph(self.graph, ends)
        self.active = depending(self.graph, leaves)
        self.first = first_readers(self.graph, leaves, self.segments)

    def backward(self, batches: Sequence[Tensor], receive: Receive) -> None:
        """Hand over the gradient of each batch's mean loss by each leaf. Raises DataError where it is not finite."""
        inputs = [
            dict(zip(self.graph.placeholders.values(), graph_inputs(self.graph, b), strict=True)) for b in batches
        ]
        held = self.forward(inputs)
        gradients: list[dict[fx.Node, Tensor]] = [{} for _ in batches]
        sums: list[dict[str, Tensor]] = [{} for _ in batches]
        for number, segment in reversed(list(enumerate(self.segments))):
            for place, batch in enumerate(batches):
                values = inputs[place] | held[place]
                self.go_back(segment, values, batch, gradients[place], sums[place])
                for node in segment.leaving:
                    held[place].pop(node)
                    gradients[place].pop(node, None)
                for name in [name for name in sums[place] if self.first[name] == number]:
                    receive(name, sums[place].pop(name))

    def forward(self, inputs: Sequence[Values]) -> list[Values]:
        """What each segment hands to later ones, for every batch."""
        held: list[Values] = [{} for _ in inputs]
        for segment in self.segments[:-1]:
            last = last_uses(segment.nodes)
            for known, given in zip(held, inputs, strict=True):
                with torch.no_grad():
                    found = self.run(segment, given | known, last)
                known |= {node: found[node] for node in segment.leaving}
        return held

    def run(self, segment: Segment, values: Values, last: Mapping[fx.Node, fx.Node] | None = None) -> Values:
        """The values with those of a segment; with `last`, the last reader of each, without those read no more."""
        dying: dict[fx.Node, list[fx.Node]] = {}
        for node, user in (last or {}).items():
            dying.setdefault(user, []).append(node)
        kept = {*segment.leaving, *segment.entering}
        for node in segment.nodes:
            for each in node.all_input_nodes:
                if each.op == "get_attr":
                    values[each] = self.leaves.get(str(each.target), self.tensors[str(each.target)])
            args, kwargs = arguments_of(node, values)
            values[node] = function_of(node)(*args, **kwargs)
            for gone in dying.get(node, ()):
                if gone not in kept and gone.op == "call_function":
                    values.pop(gone, None)
        return values

    def go_back(
        self,
        segment: Segment,
        values: Values,
        batch: Tensor,
        gradients: dict[fx.Node, Tensor],
        sums: dict[str, Tensor],
    ) -> None:
        """Run a segment again, and add to the gradients of what it reads."""
        entering = {node: values[node].detach() for node in segment.entering if isinstance(values[node], Tensor)}
        floats = {node: value for node, value in entering.items() if value.is_floating_point()}
        wanted = {node: value.requires_grad_() for node, value in floats.items() if node in self.active}
        names = {str(each.target) for node in segment.nodes for each in node.all_input_nodes if each.op == "get_attr"}
        own = {name: leaf for name, leaf in self.leaves.items() if name in names}
        with torch.enable_grad():
            found = self.run(segment, values | entering)
            ends = [(found[node], gradients[node]) for node in segment.leaving if node in gradients]
            if segment is self.segments[-1]:
                loss = predict(self.graph, (found[self.graph.returned[0]],), batch, "mean")
                if not bool(torch.isfinite(loss)):
                    raise DataError(
                        f"the loss on the calibration data is {loss.item()}; check the weights and the data"
                    )
                ends.append((loss, torch.ones_like(loss)))
            starts = [*wanted.values(), *own.values()]
            if not ends or not starts:
                return
            results = torch.autograd.grad([e for e, _ in ends], starts, [g for _, g in ends], allow_unused=True)
        for (totals, key), gradient in zip(keyed(wanted, own, gradients, sums), results, strict=True):
            if gradient is not None:
                totals[key] = totals[key] + gradient if key in totals else gradient


def keyed(
    wanted: Mapping[fx.Node, Tensor], own: Mapping[str, Tensor], gradients: dict[Any, Tensor], sums: dict[Any, Tensor]
) -> Iterator[tuple[dict[Any, Tensor], Any]]:
    """Where each gradient is added."""
    yield from ((gradients, node) for node in wanted)
    yield from ((sums, name) for name in own)


def depending(graph: Graph, leaves: Mapping[str, Tensor]) -> set[fx.Node]:
    """The nodes whose values depend on a leaf."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        leaf = node.op == "get_attr" and str(node.target) in leaves
        if leaf or any(each in found for each in node.all_input_nodes):
            found.add(node)
    return found


def first_readers(graph: Graph, leaves: Mapping[str, Tensor], segments: Sequence[Segment]) -> dict[str, int]:
    """For each leaf the first segment that reads it, behind which its gradient is whole."""
    found: dict[str, int] = {}
    for number, segment in enumerate(segments):
        for node in segment.nodes:
            for each in node.all_input_nodes:
                if each.op == "get_attr" and str(each.target) in leaves:
                    found.setdefault(str(each.target), number)
    return found
