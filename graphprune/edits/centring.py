"""Centring: the mean that layer norms take away is taken from what writes into their stream (arXiv 2401.15024)."""

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter

import torch
from torch import fx

from graphprune.analysis.analyse import analyze_axes
from graphprune.analysis.groups import Group
from graphprune.edits.obstacles import CENTRED, Along, find_obstacle
from graphprune.edits.probes import probe
from graphprune.edits.tensors import like, require_dense, require_whole, with_all
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import bind, opname, remove_dead

_aten = torch.ops.aten


def centre(graph: Graph, ids: Sequence[str]) -> Graph:
    """Return the graph in which the layer norms over these groups are RMS norms, and what writes has no mean.

    Raises PlanError for a group without a layer norm, and where anything but layer norms reads the stream: an RMS norm
    would see another length, and a matrix the mean that is gone.
    """
    for id in ids:
        graph = centre_one(graph, id)
    return graph


def centre_one(graph: Graph, id: str) -> Graph:
    """The graph with one group centred."""
    analysis = analyze_axes(graph)
    group = next((g for g in analysis.groups.groups if g.id == id), None)
    if group is None:
        raise PlanError(f"{id} is no group of this model, so that nothing can be centred")
    norms = layer_norms(graph, Along(analysis.inference, analysis.inference.algebra.find(analysis.atoms[id])))
    if not norms:
        raise PlanError(f"{id} has no layer norm, so that there is no mean to fold")
    require_dense(graph, f"the mean of {id} cannot be folded")
    tensors = dict(graph.tensors())
    for name, dim in written(graph, group, norms):
        old = tensors[name]
        wide = old.detach().double()
        tensors[name] = like(wide - wide.mean(dim, keepdim=True), old)
    fork = graph.fork()
    for node in fork.nodes:
        if node.name in {norm.name for norm in norms}:
            without_mean(fork.module.graph, node)
    remove_dead(fork.module.graph)
    return replace(with_all(fork, tensors), companions={})


def layer_norms(graph: Graph, along: Along) -> list[fx.Node]:
    """The layer norms that run over an axis alone."""
    return [
        node
        for node in graph.nodes
        if opname(node) == "layer_norm" and len(bind(node)["normalized_shape"]) == 1 and along.has(bind(node)["input"])
    ]


def written(graph: Graph, group: Group, norms: Sequence[fx.Node]) -> list[tuple[str, int]]:
    """The tensors, and dimensions, that write into what these norms read. Raises PlanError."""
    probed = probe(graph, [norm.name for norm in norms])
    nodes = {node.name: node for node in probed.graph.nodes}
    told = f"the mean of {group.id} cannot be folded into what writes it"
    behind = {probed.behind(place).axis for place in range(len(norms))}
    own = {str(each.target) for n in norms for each in nodes[n.name].all_input_nodes if each.op == "get_attr"}
    found = dict[tuple[str, int], None]()
    for norm in norms:
        along = probed.along(probed.analysis.inference.axes[bind(nodes[norm.name])["input"]][-1])
        obstacle = find_obstacle(probed.graph, along, CENTRED, probed.probes)
        if obstacle is None and along.axis in behind:
            obstacle = "a norm writes into it"
        if obstacle is not None:
            raise PlanError(f"{told}: {obstacle}")
        slots = tuple(slot for slot in probed.slots(along) if slot.name not in own)
        require_whole(graph, slots, told)
        found |= dict.fromkeys((slot.name, slot.dim) for slot in slots)
    return list(found)


def without_mean(graph: fx.Graph, norm: fx.Node) -> None:
    """Put an RMS norm, and what the layer norm adds, in its place."""
    x, shape, weight, bias, eps = itemgetter("input", "normalized_shape", "weight", "bias", "eps")(bind(norm))
    with graph.inserting_before(norm):
        made = graph.call_function(_aten.rms_norm.default, (x, shape, weight, eps))
        made.meta |= norm.meta
        if bias is not None:
            made = graph.call_function(_aten.add.Tensor, (made, bias))
            made.meta |= norm.meta
    norm.replace_all_uses_with(made)
