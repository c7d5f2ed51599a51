"""Residual branches: additions in which one operand is computed from the other."""

from collections.abc import Mapping, Sequence

import torch
from torch import fx

from graphprune.analysis.groups import Branch
from graphprune.ir.contract import is_present
from graphprune.ir.graph import Graph
from graphprune.ir.types import TensorType

_ADD = torch.ops.aten.add.Tensor
STREAM_MAP = "stream_map.weight"  # how the names of the matrices end that lie on a stream and belong to no branch
SIDE_READ, SIDE_WRITE = "_side_read.weight", "_side_write.weight"  # and those of a second path beside a linear call


def find_branches(graph: Graph) -> tuple[Branch, ...]:
    """Find every residual branch with weights of its own, in graph order.

    A sum of several terms (parallel attention and MLP) has one branch for each term; the skip operand is the term that
    all others are computed from.
    """
    above = ancestors(graph)
    position = {node: i for i, node in enumerate(graph.nodes)}
    found: list[Branch] = []
    aside = side_nodes(graph)
    for node in graph.nodes:
        if node.target is not _ADD or is_inner_sum(node):
            continue
        terms = sum_terms(node)
        skip = next((s for s in terms if all(above[t] >> position[uncast(s)] & 1 for t in terms if t is not s)), None)
        if skip is None or not same_shape(skip, node):
            continue
        for term in terms:
            if term is not skip and same_shape(term, node):
                found += describe(graph, node, term, skip, found, aside)
    return tuple(found)


def ancestors(graph: Graph) -> Mapping[fx.Node, int]:
    """For each node the set of nodes that it is computed from, as the bits of an integer."""
    sets: dict[fx.Node, int] = {}
    bit = {node: 1 << i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        mask = 0
        for source in node.all_input_nodes:
            mask |= sets[source] | bit[source]
        sets[node] = mask
    return sets


def uncast(node: fx.Node) -> fx.Node:
    """What a stream in another element type, times a number, or behind a stream map, was made from.

    Models keep it in float32 and compute branches in half, and weigh it against branches.
    """
    while node.target is torch.ops.aten._to_copy.default or is_scaled(node) or is_stream_map(node):
        node = node.all_input_nodes[0]
    return node


def is_stream_map(node: fx.Node) -> bool:
    """Whether this multiplies a stream by a matrix that parts two segments of it; its name says so."""
    weight = node.args[1] if node.target is torch.ops.aten.linear.default else None
    return isinstance(weight, fx.Node) and str(weight.target).endswith(STREAM_MAP)


def is_scaled(node: fx.Node) -> bool:
    return node.target is torch.ops.aten.mul.Tensor and isinstance(node.args[1], (int, float))


def is_sum(node: fx.Node) -> bool:
    plain = node.target is _ADD and not node.kwargs and all(isinstance(a, fx.Node) for a in node.args)
    return plain and not any(map(is_side_branch, node.all_input_nodes))


def is_side_branch(node: fx.Node) -> bool:
    """Whether this is what a side branch adds to a linear call, with which it is one; its name says so."""
    weight = node.args[1] if node.target is torch.ops.aten.linear.default else None
    return isinstance(weight, fx.Node) and str(weight.target).endswith(SIDE_WRITE)


def is_inner_sum(node: fx.Node) -> bool:
    """Say whether this sum is only a term of another sum."""
    return len(node.users) == 1 and is_sum(next(iter(node.users)))


def sum_terms(node: fx.Node) -> list[fx.Node]:
    """The terms of a tree of additions."""
    if not is_sum(node):
        return []
    terms: list[fx.Node] = []
    for operand in node.all_input_nodes:
        terms += sum_terms(operand) if is_sum(operand) and is_inner_sum(operand) else [operand]
    return terms


def same_shape(left: fx.Node, right: fx.Node) -> bool:
    one, other = left.meta.get("value"), right.meta.get("value")
    return isinstance(one, TensorType) and isinstance(other, TensorType) and one.shape == other.shape


def describe(
    graph: Graph, add: fx.Node, term: fx.Node, skip: fx.Node, found: Sequence[Branch], aside: frozenset[fx.Node]
) -> list[Branch]:
    """The branch that ends in `term`; none where it has no weight matrix of its own, or holds whole branches.

    The only cross-attention of a decoder holds its encoder: without it there is no more to drop one by one.
    """
    inside, taken = exclusive_nodes(graph, term, aside=aside), {branch.id for branch in found}
    if {branch.add for branch in found} & {node.name for node in inside}:
        return []
    weights = [str(n.target) for n in inside if n.op == "get_attr" and len(n.meta["value"].shape) > 1]
    if not weights:
        return []
    returned = {node: name for name, node in graph.results.items() if is_present(name)}
    caches = tuple(name.removeprefix("present.") for node, name in returned.items() if node in inside)
    id = scope_of_last(term, set(weights))
    number = 2
    while id in taken:
        id, number = f"{id.removesuffix(f'#{number - 1}')}#{number}", number + 1
    return [Branch(id, add.name, term.name, skip.name, caches)]


def scope_of_last(term: fx.Node, weights: set[str]) -> str:
    """The module around the layer whose weight comes last in the branch."""
    pending, seen = [term], set()
    while pending:
        node = pending.pop(0)
        if node in seen:
            continue
        seen.add(node)
        if node.op == "get_attr" and str(node.target) in weights:
            parts = str(node.target).split(".")
            return ".".join(parts[:-2] or parts[:1])
        pending += node.all_input_nodes
    return min(weights)


def exclusive_nodes(graph: Graph, *ends: fx.Node, aside: frozenset[fx.Node] | None = None) -> set[fx.Node]:
    """What would be dead without these terms: nodes that only they, and states that are returned, read.

    Readers are counted down from the end, as a reference-counting collector does: the work is the size of the branch.
    `aside` is `side_nodes(graph)`, for callers that ask often.
    """
    aside = side_nodes(graph) if aside is None else aside
    states, output = state_nodes(graph), graph.module.graph.output_node()
    dead, pending = set(ends), list(ends)
    living: dict[fx.Node, int] = {}
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in living:
                free = sum(user in aside or (user is output and source in states) for user in source.users)
                living[source] = len(source.users) - free
            living[source] -= 1
            if living[source] == 0:
                dead.add(source)
                pending.append(source)
    return dead | dead_aside(dead, aside)


def state_nodes(graph: Graph) -> set[fx.Node]:
    """The nodes that are returned as states and as nothing else."""
    results = graph.results
    return {node for name, node in results.items() if is_present(name)} - {
        node for name, node in results.items() if not is_present(name)
    }


def side_nodes(graph: Graph) -> frozenset[fx.Node]:
    """The nodes that only make the states that are returned, as a window that is cut off for the next call."""
    states, output = state_nodes(graph), graph.module.graph.output_node()
    aside: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        readers = [user for user in node.users if user not in aside]
        if node.users and all(user is output and node in states for user in readers):
            aside.add(node)
    return frozenset(aside)


def dead_aside(dead: set[fx.Node], aside: frozenset[fx.Node]) -> set[fx.Node]:
    """The side nodes that are computed from dead ones."""
    found: set[fx.Node] = set()
    pending = list(dead)
    while pending:
        new = [user for user in pending.pop().users if user in aside and user not in found]
        found.update(new)
        pending += new
    return found


def upstream(end: fx.Node) -> set[fx.Node]:
    """Every node that this one is computed from."""
    seen: set[fx.Node] = set()
    pending = [end]
    while pending:
        new = [source for source in pending.pop().all_input_nodes if source not in seen]
        seen.update(new)
        pending += new
    return seen
