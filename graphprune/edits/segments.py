"""Segments: the edits after which each part of a residual stream, from one sum to the next, is an axis by itself."""

from itertools import groupby

import torch

from graphprune.analysis.analyse import analyze, analyze_axes
from graphprune.analysis.branches import find_branches, is_stream_map
from graphprune.analysis.groups import Group
from graphprune.edits.centring import layer_norms
from graphprune.edits.editing import edited
from graphprune.edits.norm_folding import find_scaling
from graphprune.edits.obstacles import Along
from graphprune.edits.rotation import require_rotatable
from graphprune.edits.untying import readers
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place
from graphprune.ir.plan import Edit


def segment_edits(graph: Graph) -> tuple[Edit, ...]:
    """The edits that part the residual stream of a graph into segments, each of which can be rotated and cut by itself.

    Tied tensors get copies, norms are folded, layer norms centred, and each sum gets a matrix on its skip operand. What
    has been done to the graph before is left out. Raises PlanError with what stands in the way.
    """
    here, done = place(graph, torch.device("meta")), list[Edit]()
    for find in (ties, norm_weights, centres, sums):
        found = find(here)
        here, done = edited(here, found), [*done, *found]
    analysis = analyze_axes(here)
    for group in segments(here):
        require_rotatable(analysis, group)
    return tuple(done)


def segments(graph: Graph) -> tuple[Group, ...]:
    """The segments of the residual stream, in graph order."""
    return tuple(group for group in analyze(graph).groups if group.kind == "residual")


def ties(graph: Graph) -> list[Edit]:
    """Of what carries the stream, the tensors that several calls read."""
    names = dict.fromkeys(slot.name for group in segments(graph) for slot in group.slots)
    held, seen, found = graph.tensors(), set[int](), list[Edit]()
    for name in names:
        if id(held[name]) not in seen and len(readers(graph, name)) > 1:
            found.append(Edit("untie", name))
        seen.add(id(held[name]))
    return found


def norm_weights(graph: Graph) -> list[Edit]:
    """The weights of norms over the stream."""
    tensors = graph.tensors()
    lines = dict.fromkeys(s.name for g in segments(graph) for s in g.slots if tensors[s.name].ndim == 1)
    return [Edit("fold-norm", name) for name in lines if is_norm_weight(graph, name)]


def is_norm_weight(graph: Graph, name: str) -> bool:
    try:
        find_scaling(graph, name)
    except PlanError:
        return False
    return True


def centres(graph: Graph) -> list[Edit]:
    """The streams that layer norms read."""
    analysis = analyze_axes(graph)
    find = analysis.inference.algebra.find
    along = {group.id: Along(analysis.inference, find(analysis.atoms[group.id])) for group in segments(graph)}
    return [Edit("center", id) for id, axis in along.items() if layer_norms(graph, axis)]


def sums(graph: Graph) -> list[Edit]:
    """The first branch of each residual sum whose skip operand has no matrix yet."""
    nodes = {node.name: node for node in graph.nodes}
    firsts = [next(members) for _, members in groupby(find_branches(graph), key=lambda branch: branch.add)]
    return [Edit("stream-map", branch.id) for branch in firsts if not is_stream_map(nodes[branch.skip])]
