"""Segments: a language model's graph with one module for each layer, so that a layer's weights can come and go as one.

Cuts are made at the residual additions. What is before the first layer and after the last, and every tensor that two
segments read (tied embeddings), stays at the root.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import getitem

import torch
from torch import Tensor, fx

from graphprune.analysis.branches import find_branches
from graphprune.ir.graph import Graph, copy_nodes, get_tensor

_PREFIX = "segment_"
_NAMED = re.compile(rf"^{_PREFIX}\d+\.")
# The module of a list that a parameter lives in: `model.layers.3` of `model.layers.3.mlp.up_proj.weight`.
_LAYER = re.compile(r"^(?:.*?\.)?\d+(?=\.)")


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive nodes, the values that they take from outside and those that are read outside."""

    nodes: Sequence[fx.Node]
    takes: Sequence[fx.Node]
    gives: Sequence[fx.Node]


def segmented(graph: Graph, output: str = "logits") -> tuple[Graph, tuple[fx.GraphModule, ...]]:
    """Return the graph with one output and layers as modules, and these modules in order.

    The tensors are shared with the given graph and are found under the same names, those of a layer behind
    `segment_3.`, which `source_name` takes off. The result runs and trains; as an IR it is of no use.
    """
    nodes, tensors = with_one_output(graph, output), graph.tensors()
    places = assign(graph, nodes)
    shared = read_twice(nodes, places, tensors)
    segments = [cut(nodes, places, shared, number) for number in range(len(set(places.values())))]
    modules = {segment_name(i): fx.GraphModule(dict(tensors), segment_nodes(part)) for i, part in enumerate(segments)}
    root = fx.GraphModule({**tensors, **modules}, join(nodes, places, segments))
    root.train(graph.module.training)
    return replace(graph, module=root, outputs=(output,)), tuple(modules.values())


def segment_name(place: int) -> str:
    """The name of the module of a layer."""
    return f"{_PREFIX}{place}"


def source_name(name: str) -> str:
    """The name that a tensor of a segmented graph has in the graph that it was made from."""
    return _NAMED.sub("", name)


def with_one_output(graph: Graph, name: str) -> fx.Graph:
    """A copy of the nodes that computes nothing but this output; every input stays."""
    nodes = copy_nodes(graph.module.graph)
    place = graph.outputs.index(name)
    output = nodes.output_node()
    output.args = ((output.args[0][place],),)  # type: ignore[index]
    nodes.eliminate_dead_code()
    return nodes


def assign(graph: Graph, nodes: fx.Graph) -> dict[fx.Node, int]:
    """The number of the segment of each node that is in one.

    What is computed of neither the stream nor parameters, such as rotations and masks, is in none.
    """
    branches = find_branches(graph)
    if not branches:
        return {}
    ends, skip = {branch.add for branch in branches}, branches[0].skip
    parameters = {n for n in nodes.nodes if n.op == "get_attr" and is_parameter(graph, str(n.target))}
    stream = {node for node in nodes.nodes if node.name == skip}
    behind, own = descendants(nodes, stream), descendants(nodes, stream | parameters)
    calls = [node for node in nodes.nodes if node.op == "call_function" and node in own]
    pieces: list[list[fx.Node]] = [[]]
    for node in calls:
        pieces[-1].append(node)
        if node.name in ends:
            pieces.append([])
    pieces.pop()  # what is after the last addition is the head's
    pieces[0] = [node for node in pieces[0] if node in behind]
    return {node: number for number, piece in enumerate(merged(pieces)) for node in piece}


def is_parameter(graph: Graph, name: str) -> bool:
    return isinstance(get_tensor(graph.module, name), torch.nn.Parameter)


def descendants(nodes: fx.Graph, start: set[fx.Node]) -> set[fx.Node]:
    """The nodes computed from any of these."""
    found = set(start)
    for node in nodes.nodes:
        if any(operand in found for operand in node.all_input_nodes):
            found.add(node)
    return found - start


def merged(pieces: Sequence[list[fx.Node]]) -> list[list[fx.Node]]:
    """Join neighbours whose largest parameters are of the same layer."""
    result: list[list[fx.Node]] = []
    last = None
    for piece in pieces:
        layer = layer_of(piece)
        if result and (layer is None or layer == last):
            result[-1] += piece
        else:
            result.append(list(piece))
            last = layer
    return result


def layer_of(piece: Sequence[fx.Node]) -> str | None:
    """The layer that the largest parameter which these nodes read belongs to, or its module where layers have no
    numbers; None where they read none."""
    read = [operand for node in piece for operand in node.all_input_nodes if operand.op == "get_attr"]
    sized = {str(node.target): torch.Size(node.meta["value"].shape).numel() for node in read}
    if not sized:
        return None
    name = max(sized, key=lambda key: sized[key])
    match = _LAYER.match(name)
    return match[0] if match else name.rpartition(".")[0]


def cut(nodes: fx.Graph, places: Mapping[fx.Node, int], shared: set[str], number: int) -> Segment:
    """One segment with what goes in and out. A tensor that is read elsewhere too goes in."""
    inside = [node for node in nodes.nodes if places.get(node) == number]
    takes = [n for n in operands(inside) if places.get(n) != number and (n.op != "get_attr" or str(n.target) in shared)]
    gives = [node for node in inside if any(places.get(user) != number for user in node.users)]
    return Segment(inside, takes, gives)


def operands(nodes: Sequence[fx.Node]) -> Iterator[fx.Node]:
    """Every value that these nodes read, once."""
    return iter(dict.fromkeys(operand for node in nodes for operand in node.all_input_nodes))


def read_twice(nodes: fx.Graph, places: Mapping[fx.Node, int], tensors: Mapping[str, Tensor]) -> set[str]:
    """The tensors that are read in more than one segment, or in one and at the root, under whatever names."""
    readers: dict[int, set[int]] = {}
    for node in nodes.nodes:
        if node.op == "get_attr":
            readers.setdefault(id(tensors[str(node.target)]), set()).update(places.get(user, -1) for user in node.users)
    return {name for name, tensor in tensors.items() if len(readers.get(id(tensor), ())) > 1}


def segment_nodes(segment: Segment) -> fx.Graph:
    """The nodes of a segment as a graph of its own, which takes and gives in the order of the segment."""
    result = fx.Graph()
    copies = {node: result.placeholder(node.name) for node in segment.takes}
    for node in segment.nodes:
        for operand in node.all_input_nodes:
            if operand not in copies:
                copies[operand] = result.get_attr(str(operand.target))
        copies[node] = result.node_copy(node, copies.__getitem__)
    result.output(tuple(copies[node] for node in segment.gives))
    return result


def join(nodes: fx.Graph, places: Mapping[fx.Node, int], segments: Sequence[Segment]) -> fx.Graph:
    """The root: inputs, what comes before the first segment, calls of the segments, what comes after."""
    result = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    needed = {node for segment in segments for node in segment.takes}
    waiting = list(enumerate(segments))
    for node in nodes.nodes:
        if node in places or (node.op == "get_attr" and node not in needed and all(u in places for u in node.users)):
            continue
        while any(operand not in copies for operand in node.all_input_nodes):
            number, segment = waiting.pop(0)
            call(result, copies, segment, number)
        copies[node] = result.node_copy(node, copies.__getitem__)
    return result


def call(result: fx.Graph, copies: dict[fx.Node, fx.Node], segment: Segment, number: int) -> None:
    """Call a segment and take what it gives apart."""
    called = result.call_module(segment_name(number), tuple(copies[node] for node in segment.takes))
    for index, node in enumerate(segment.gives):
        copies[node] = result.call_function(getitem, (called, index))
        copies[node].meta = dict(node.meta)
