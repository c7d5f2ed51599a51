"""Principal axes: each segment of the residual stream expressed in the directions in which it varies most, in order.

Source: SliceGPT, arXiv 2401.15024. The graph's edits have parted the stream (graphprune/edits/segments.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphprune.analysis.analyse import analyze_axes
from graphprune.analysis.branches import find_branches, uncast
from graphprune.analysis.groups import Group
from graphprune.edits.rotation import require_rotatable, rotated_tensors
from graphprune.ir.graph import Graph
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.stepper import Stepper


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of the stream: its group, and the node at which it is whole and nothing has read it yet."""

    group: Group
    node: fx.Node


def find_segments(graph: Graph) -> tuple[Segment, ...]:
    """The segments of a graph's residual streams, in the order in which they are computed."""
    analysis = analyze_axes(graph)
    find = analysis.inference.algebra.find
    groups = {find(analysis.atoms[g.id]): g for g in analysis.groups.groups if g.kind == "residual"}
    nodes, found = {node.name: node for node in graph.nodes}, dict[str, Segment]()
    for branch in find_branches(graph):
        for node in (uncast(nodes[branch.skip]), nodes[branch.add]):
            group = groups.get(find(analysis.inference.axes[node][-1]))
            if group is not None:
                found.setdefault(group.id, Segment(group, node))
    place = {node: index for index, node in enumerate(graph.nodes)}
    return tuple(sorted(found.values(), key=lambda segment: place[segment.node]))


def turn(
    graph: Graph,
    kept: Mapping[str, Sequence[int]],
    batches: Sequence[Batch],
    sequential: bool = True,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Graph:
    """Return the graph with these segments, by their groups' ids, in their principal axes.

    The largest axes become the units that are to be kept, in order. They are eigenvectors of the sum of x xᵀ over all
    tokens, in float64, of the stream before its norm. With `sequential` that is the stream of the model in which the
    segments before have only the units left that are kept; norms divide by the whole width. One run of the graph:
    memory is that of the values alive at one place. Raises PlanError for a segment that has no other basis.
    """
    analysis = analyze_axes(graph)
    chosen = [segment for segment in find_segments(graph) if segment.group.id in kept]
    for segment in chosen:
        require_rotatable(analysis, segment.group)
    rows = [graph_inputs(graph, batch) for batch in batches]
    turned = dict[str, Tensor]()
    with torch.no_grad():
        waiting = frozenset(segment.node.name for segment in chosen)
        run = Stepper(graph, rows, waiting, chosen[-1].node if chosen else None)
        for done, segment in enumerate(chosen):
            progress(done, len(chosen))
            run.advance(segment.node)
            values = run.value(segment.node)
            units = kept[segment.group.id]
            basis = arranged(principal_axes(values), units)
            found = rotated_tensors({**run.tensors, **turned}, segment.group, basis)
            turned |= found
            left = units if sequential else range(segment.group.units)
            run.put(segment.node, [shortened(value, basis, left) for value in values])
            for name, tensor in found.items():
                run.replace(name, tensor)
            run.forget(segment.node)
    progress(len(chosen), len(chosen))
    return graph.with_tensors(turned)


def principal_axes(values: Sequence[Tensor]) -> Tensor:
    """The eigenvectors of the sum of x xᵀ, that of the largest eigenvalue first, as columns: float64.

    The largest entry of each is positive, since either sign is an eigenvector.
    """
    total = sum(rows.T @ rows for rows in (value.flatten(0, -2).double() for value in values))
    assert isinstance(total, Tensor)
    axes: Tensor = torch.linalg.eigh(total).eigenvectors.flip(1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    turned: Tensor = axes * largest.sign()
    return turned


def arranged(axes: Tensor, first: Sequence[int]) -> Tensor:
    """The columns in another order: the first of them at these places, the others at those that are left."""
    order = [*first, *sorted(set(range(len(axes))) - set(first))]
    return axes[:, torch.tensor(order, device=axes.device).argsort()]


def shortened(value: Tensor, basis: Tensor, units: Sequence[int]) -> Tensor:
    """A stream in another basis, with zeros in all units but these."""
    turned = value.double() @ basis
    left = torch.zeros_like(turned)
    left[..., list(units)] = turned[..., list(units)]
    return left.to(value.dtype)
