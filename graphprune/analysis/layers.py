"""Layers: which residual branches make one block of the model."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import groupby

from torch import fx

from graphprune.analysis.branches import exclusive_nodes, side_nodes
from graphprune.analysis.groups import Branch, Group, Groups
from graphprune.ir.graph import Graph
from graphprune.ir.operators import opname
from graphprune.ir.recurrence import RECURRENCE

_HEADS = frozenset({"attention", "query", "head_dim"})


def find_layers(groups: Groups) -> tuple[tuple[Branch, ...], ...]:
    """The residual branches by layer, in graph order."""
    return tuple(tuple(members) for _, members in groupby(groups.branches, key=lambda branch: branch.layer))


def by_branch(layers: Sequence[Sequence[Branch]], values: Sequence[float]) -> Mapping[str, float]:
    """The value of its layer for each branch's id."""
    return {branch.id: value for layer, value in zip(layers, values, strict=True) for branch in layer}


@dataclass(frozen=True)
class Sum:
    """The branches of one addition: the stream that they add to, and whether some mix its tokens, some those of
    another stream, some none."""

    members: tuple[Branch, ...]
    stream: int
    own: bool
    other: bool
    plain: bool


def number_layers(graph: Graph, branches: Sequence[Branch], groups: Sequence[Group]) -> tuple[Branch, ...]:
    """The branches with the numbers of their layers, found from the graph and its axes, not from names.

    Branches of one addition (parallel attention and MLP) belong together. A layer begins where tokens are mixed again
    after a branch that mixes none, where two additions in a row mix the stream's own tokens, and where another stream
    begins: attention to an encoder stays with the attention before it. A model that mixes no tokens has one addition a
    layer.
    """
    sums = describe_sums(graph, branches, groups)
    mixing = any(each.own or each.other for each in sums)
    numbered: list[Branch] = []
    layer, last, done = -1, -1, False
    for each in sums:
        if not mixing or each.stream != last or each.own or (each.other and done):
            layer, done = layer + 1, False
        last, done = each.stream, done or each.plain
        numbered += [replace(branch, layer=layer) for branch in each.members]
    return tuple(numbered)


def describe_sums(graph: Graph, branches: Sequence[Branch], groups: Sequence[Group]) -> list[Sum]:
    """The additions of a graph that end branches, in order."""
    nodes = {node.name: node for node in graph.nodes}
    flow = find_streams(graph, branches)
    heads = {slot.name for group in groups if group.kind in _HEADS for slot in group.slots}
    aside = side_nodes(graph)
    sums: list[Sum] = []
    for add, found in groupby(branches, key=lambda branch: branch.add):
        members, stream = tuple(found), flow[nodes[add]]
        inside = [exclusive_nodes(graph, nodes[branch.branch], aside=aside) for branch in members]
        mixers = [part for part, b in zip(inside, members, strict=True) if b.caches or mixes(part, heads)]
        crossing = [reads_others(part, flow, stream) for part in mixers]
        sums.append(Sum(members, stream, not all(crossing), any(crossing), len(mixers) < len(members)))
    return sums


def mixes(inside: Set[fx.Node], heads: Set[str]) -> bool:
    """Whether a branch without a cache lets tokens look at each other: it has heads, attention or a recurrence."""
    return any(
        (node.op == "get_attr" and str(node.target) in heads)
        or node.target is RECURRENCE
        or "scaled_dot_product_attention" in opname(node)
        for node in inside
    )


def reads_others(inside: Set[fx.Node], flow: Mapping[fx.Node, int], stream: int) -> bool:
    """Whether a branch reads what another stream has computed."""
    outside = {source for node in inside for source in node.all_input_nodes} - inside
    return any(flow.get(node, stream) != stream for node in outside)


def find_streams(graph: Graph, branches: Sequence[Branch]) -> dict[fx.Node, int]:
    """The stream of every node that is computed from one: the last that came in on the way to it.

    An addition goes on with the stream of its skip operand, and begins one where that has none.
    """
    skips = {branch.add: branch.skip for branch in branches}
    places: dict[fx.Node, tuple[int, int]] = {}  # the last addition before each node, and its stream
    nodes = {node.name: node for node in graph.nodes}
    begun = 0
    for place, node in enumerate(graph.nodes):
        before = [places[source] for source in node.all_input_nodes if source in places]
        if node.name in skips:
            skip = places.get(nodes[skips[node.name]])
            places[node] = (place, skip[1] if skip else begun)
            begun += skip is None
        elif before:
            places[node] = max(before)
    return {node: stream for node, (_, stream) in places.items()}
