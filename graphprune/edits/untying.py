"""Untying: a tensor that several calls read becomes one of its own for each of them."""

from collections.abc import Sequence

from torch import fx

from graphprune.edits.tensors import like, require_free, with_all
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import remove_dead
from graphprune.ir.types import TensorType


def untie(graph: Graph, names: Sequence[str]) -> Graph:
    """Return the graph in which the first call that reads each of these tensors keeps it, and others read copies.

    A copy has the name under which it was read, where that is another one (`lm_head.weight`), else one beside it
    (`wte_untied.weight`). Raises PlanError for a tensor that one call alone reads.
    """
    fork, tensors = graph.fork(), dict(graph.tensors())
    for name in names:
        first, *others = readers(fork, name)
        if not others:
            raise PlanError(f"{name} is read by one call alone, so that there is nothing to untie")
        taken = {str(first[0].target)}
        for place, (node, reader) in enumerate(others):
            own = str(node.target)
            if own in taken:
                own = beside(own, place)
                require_free(tensors, own)
            taken.add(own)
            tensors[own] = like(tensors[name].detach().clone(), tensors[name])
            reader.replace_input_with(node, read_copy(fork.module.graph, node, own))
    remove_dead(fork.module.graph)
    return with_all(fork, tensors)


def beside(name: str, place: int) -> str:
    """The name of a further copy: of a module beside the one that holds the tensor."""
    scope, dot, leaf = name.rpartition(".")
    mark = f"_untied{place + 1 if place else ''}"
    return f"{scope}{mark}.{leaf}" if dot else f"{leaf}{mark}"


def readers(graph: Graph, name: str) -> list[tuple[fx.Node, fx.Node]]:
    """Every reading of a tensor, under whichever of its names, in graph order: the node that holds it, the reader."""
    held = graph.tensors()
    if name not in held:
        raise PlanError(f"{name} is no tensor of this model, so that nothing can be untied")
    order = {node: place for place, node in enumerate(graph.nodes)}
    found = [
        (node, user)
        for node in graph.module.graph.find_nodes(op="get_attr")
        if held[str(node.target)] is held[name]
        for user in node.users
    ]
    return sorted(found, key=lambda pair: order[pair[1]])


def read_copy(graph: fx.Graph, node: fx.Node, name: str) -> fx.Node:
    """A node beside another one that reads a copy of what it reads."""
    with graph.inserting_after(node):
        copy = graph.create_node("get_attr", name)
    value = node.meta["value"]
    assert isinstance(value, TensorType)
    copy.meta |= {"value": value, "scope": node.meta.get("scope", "")}
    return copy
