"""Growth: units are appended to a group that change nothing of what the model computes for what it knew before.

New channels of an MLP are copies of channels that are there, whose outputs count for nothing; new tokens have the mean
of all rows. Training makes them differ. Net2Net, arXiv 1511.05641, splits outputs instead, which leaves less to learn.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.fx.node import Argument

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.analysis.groups import Group
from graphprune.axes.algebra import Axis, multiply, total
from graphprune.axes.inference import Axes, Call, Inference
from graphprune.axes.rules import all_rules
from graphprune.bounds import Count, require_limits
from graphprune.edits.experts import find_mlp
from graphprune.edits.tensors import like
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import operator_key, rebind
from graphprune.ir.sizes import emit_size
from graphprune.ir.types import NodeValue, Size, TensorType

Places = NDArray[numpy.int64]
Fill = Literal["copy", "zero", "mean"]


@final
@dataclass(frozen=True)
class Grow:
    """The options of the edit: how many units are appended, and the seed of what they are copies of."""

    name: ClassVar[str] = "grow"
    units: Count
    seed: int

    def __post_init__(self) -> None:
        require_limits(self, self.name)


@final
@dataclass(frozen=True)
class Prompt:
    """The options of the edit that appends tokens without a text of their own, for a learner to give them a meaning."""

    name: ClassVar[str] = "prompt"
    tokens: Count

    def __post_init__(self) -> None:
        require_limits(self, self.name)


def with_prompt(graph: Graph, ids: Sequence[str], options: Prompt) -> Graph:
    """Return the graph with the tokens of a prompt appended to its vocabulary; their rows are the mean of all."""
    return grow(graph, ids, Grow(options.tokens, 0))


def grow(graph: Graph, ids: Sequence[str], options: Grow) -> Graph:
    """Return the graph with units appended to these groups, the channels of an MLP or the tokens of the model.

    Logits stay as they are; of new tokens there are new ones, the mean of the others. Raises PlanError for other kinds.
    """
    for id in ids:
        graph = grow_one(graph, id, options)
    return graph


def grow_one(graph: Graph, id: str, options: Grow) -> Graph:
    analysis = analyze_axes(graph)
    group = next((g for g in analysis.groups.groups if g.id == id), None)
    if group is None:
        raise PlanError(f"{id} is no group of this model, so that nothing can be appended to it")
    fills = fills_of(graph, group)
    seed = zlib.crc32(f"{options.seed} {id}".encode())
    copied = torch.randint(group.units, (options.units,), generator=torch.Generator().manual_seed(seed))
    larger = Larger(analysis.inference, analysis.inference.algebra.find(analysis.atoms[id]), copied.numpy())
    nodes = {str(node.target): node for node in graph.module.graph.find_nodes(op="get_attr")}
    old = graph.tensors()
    new = {n: grown(t, analysis.inference.axes[nodes[n]], larger, fills.get(n, "copy")) for n, t in old.items()}
    made = graph.with_tensors({name: tensor for name, tensor in new.items() if tensor is not old[name]})
    widen(graph, made, analysis, larger)
    kinds = {kind: {n: t for n, t in own.items() if new[n] is old[n]} for kind, own in graph.companions.items()}
    return replace(made, companions={kind: own for kind, own in kinds.items() if own})


def fills_of(graph: Graph, group: Group) -> Mapping[str, Fill]:
    """What new units are in each tensor of a group, but for copies. Raises PlanError where nobody knows."""
    if group.kind == "vocabulary" and group.locked is None:
        return {slot.name: "mean" for slot in group.slots}
    mlp = find_mlp(graph, group.id, "no channels can be appended to")
    return {mlp.reader.weight: "zero"}


@final
@dataclass(frozen=True, eq=False)
class Larger:
    """One atomic axis to which units are appended, each in the place of the unit that it is a copy of.

    It is what rules ask for the new sizes of a graph (`graphprune.axes.inference.Resizer`), at any node.
    """

    inference: Inference
    atom: Axis
    copied: Places
    graph: fx.Graph | None = None
    before: fx.Node | None = None

    def size(self, axis: Axis) -> int:
        size = self.sized(axis)
        assert isinstance(size, int)
        return size

    def sized(self, axis: Axis) -> Size:
        """The new size of an axis, which may be symbolic."""
        algebra = self.inference.algebra
        root, form = algebra.find(axis), algebra.form(axis)
        if form is None:
            old = algebra.size(root)
            return old + len(self.copied) if root == self.atom else old
        if form[0] == "concat":
            return total(tuple(map(self.sized, form[1])))
        result: Size = 1
        for factor in form[1]:
            result = multiply(result, self.sized(factor))
        return result

    def was(self, axis: Axis) -> Size:
        return self.inference.algebra.size(axis)

    def place(self, axis: Axis, index: int) -> int:
        """The new number of an index: the first that holds what it held."""
        origin, fresh = self.places(axis)
        return int(numpy.flatnonzero((origin == index) & ~fresh)[0])

    def argument(self, axis: Axis, old: Argument) -> Argument:
        size = self.sized(axis)
        if size == self.was(axis):
            return old
        if isinstance(size, int):
            return size
        assert self.graph is not None
        assert self.before is not None
        return emit_size(self.graph, size, self.before)

    def places(self, axis: Axis) -> tuple[Places, NDArray[numpy.bool_]]:
        """For each index of the new axis the old index that it holds, or is a copy of, and whether it is new."""
        algebra = self.inference.algebra
        root, form = algebra.find(axis), algebra.form(axis)
        if form is None:
            size = algebra.size(root)
            assert isinstance(size, int)
            more = self.copied if root == self.atom else self.copied[:0]
            return numpy.concatenate([numpy.arange(size), more]), numpy.arange(size + len(more)) >= size
        parts = [self.places(part) for part in form[1]]
        sizes = [int(str(algebra.size(part))) for part in form[1]]
        if form[0] == "concat":
            starts = numpy.cumsum([0, *sizes[:-1]])
            moved = [origin + start for (origin, _), start in zip(parts, starts, strict=True)]
            return numpy.concatenate(moved), numpy.concatenate([fresh for _, fresh in parts])
        origin, fresh = parts[0]
        for (inner, new), size in zip(parts[1:], sizes[1:], strict=True):
            origin = (origin[:, None] * size + inner[None]).reshape(-1)
            fresh = (fresh[:, None] | new[None]).reshape(-1)
        return origin, fresh


def grown(tensor: Tensor, axes: Axes, larger: Larger, fill: Fill) -> Tensor:
    """A tensor with the entries of new units; the same object where it has none."""
    result = tensor.detach()
    for dim, axis in enumerate(axes):
        if larger.sized(axis) == larger.was(axis):
            continue
        origin, fresh = (torch.from_numpy(each).to(result.device) for each in larger.places(axis))
        mean = result.mean(dim, keepdim=True)
        result = result.index_select(dim, origin)
        shape = [-1 if d == dim else 1 for d in range(result.ndim)]
        if fill != "copy":
            result = torch.where(fresh.view(shape), mean if fill == "mean" else torch.zeros_like(mean), result)
    return tensor if result.shape == tensor.shape else like(result, tensor)


def widen(old: Graph, made: Graph, analysis: Analysis, larger: Larger) -> None:
    """Write the new sizes into the nodes of a graph with the new tensors: types, and integers that follow a width."""
    rules, copies = all_rules(), {node.name: node for node in made.nodes}
    for node in old.nodes:
        if node not in analysis.inference.axes and node not in analysis.inference.outputs:
            continue
        copy = copies[node.name]
        rule = rules.get(operator_key(node)) if node.op == "call_function" else None
        if rule is not None:
            here = replace(larger, graph=made.module.graph, before=copy)
            changes = rule.resize(Call(node, analysis.inference), here)
            known = {name: fx.node.map_arg(value, lambda n: copies.get(n.name, n)) for name, value in changes.items()}
            if known:
                rebind(copy, known)
        copy.meta["value"] = widened(node, analysis.inference, larger)
    made.module.recompile()


def widened(node: fx.Node, inference: Inference, larger: Larger) -> NodeValue:
    """What a node holds, with the new sizes of its axes."""
    value: NodeValue = node.meta["value"]
    if isinstance(value, TensorType):
        return TensorType(value.dtype, tuple(map(larger.sized, inference.axes[node])))
    assert isinstance(value, tuple)
    return tuple(
        TensorType(part.dtype, tuple(map(larger.sized, axes))) if isinstance(part, TensorType) else part
        for part, axes in zip(value, inference.outputs[node], strict=True)
    )
