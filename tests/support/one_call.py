"""One operator call as a graph of its own, and what its axis rule says of it."""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import numpy
import torch
from torch import Tensor, fx, nn

from graphprune.axes.algebra import Algebra, Axis
from graphprune.axes.inference import Axes, Call, Choice, Inference, Reduction, Rule, infer
from graphprune.axes.rules import BUILT_IN
from graphprune.ir.graph import Graph
from graphprune.ir.operators import operator_key
from graphprune.ir.types import TensorType
from graphprune.rewriting.widths import NodeResizer, Widths
from tests.support.rule_samples import Sample


def value_type(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(map(value_type, value))
    return TensorType(value.dtype, tuple(value.shape))


def graph_of(sample: Sample) -> Graph:
    """The call alone in a graph: floating-point operands are parameters, the others buffers; it returns all results."""
    graph, tensors = fx.Graph(), {}

    def operand(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor):
            return [operand(t) for t in tensor] if isinstance(tensor, list) else tensor
        name = f"operand{len(tensors)}"
        tensors[name] = nn.Parameter(tensor) if tensor.is_floating_point() else tensor
        node = graph.get_attr(name)
        node.meta["value"] = value_type(tensor)
        return node

    call = graph.call_function(sample.target, tuple(map(operand, sample.args)), sample.kwargs)
    call.meta["value"] = value_type(sample.target(*sample.args, **sample.kwargs))
    results = [call]
    if isinstance(call.meta["value"], tuple):
        results = [graph.call_function(operator.getitem, (call, k)) for k in range(len(call.meta["value"]))]
        for node, type_ in zip(results, call.meta["value"], strict=True):
            node.meta["value"] = type_
    results = [as_numbers(graph, node) for node in results if 0 not in node.meta["value"].shape]
    graph.output(tuple(results))
    # Named like cache entries, whose dimensions the contract lets shrink.
    outputs = tuple(f"present.{k}" for k in range(len(results)))
    return Graph(fx.GraphModule(tensors, graph), (), outputs)


def as_numbers(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """Truth values as numbers, so that results can be subtracted."""
    if node.meta["value"].dtype is not torch.bool:
        return node
    converted = graph.call_function(torch.ops.aten._to_copy.default, (node,), {"dtype": torch.float64})
    converted.meta["value"] = TensorType(torch.float64, node.meta["value"].shape)
    return converted


def bare(algebra: Algebra, reductions: Iterable[Reduction] = (), choices: Iterable[Choice] = ()) -> Inference:
    """An inference of no graph, for axes that are made by hand."""
    given = {"algebra": algebra, "reductions": [*reductions], "choices": [*choices]}
    return Inference(**{field.name: given.get(field.name, {}) for field in fields(Inference)})


class Inferred:
    """A call after inference by the rules of one family: the axes of its operands and results, and what was noted."""

    def __init__(self, rules: Mapping[str, Rule], sample: Sample) -> None:
        self.graph, self.rules = graph_of(sample), rules
        self.node = next(n for n in self.graph.nodes if n.op == "call_function")
        self.inference: Inference = infer(self.graph, {**BUILT_IN, **rules})
        self.call, self.algebra = Call(self.node, self.inference), self.inference.algebra

    def operands(self) -> list[Axes]:
        """The axes of every operand, in the order of the arguments."""
        return [self.named(self.inference.axes[n]) for n in self.graph.module.graph.find_nodes(op="get_attr")]

    def result(self) -> Any:
        """The axes of the result, or of each where there are several."""
        if isinstance(self.node.meta["value"], tuple):
            parts = [user for user in self.node.users if user.target is operator.getitem]
            return tuple(self.named(self.inference.axes[part]) for part in parts)
        return self.named(self.inference.axes[self.node])

    def named(self, axes: Any) -> Axes:
        """Axes by their representatives, so that equal numbers are equal axes."""
        return tuple(map(self.algebra.find, axes))

    def locks(self) -> dict[Axis, str]:
        """The locked atoms and the first reason of each."""
        found: dict[Axis, str] = {}
        for axis, lock in self.algebra.locks:
            for atom in self.algebra.atoms(axis):
                found.setdefault(atom, lock.reason)
        return found

    def averaged(self) -> set[Axis]:
        return {atom for axis in self.algebra.averaged for atom in self.algebra.atoms(axis)}

    def reduced(self) -> list[tuple[Axis, float | None, str]]:
        """What the call runs over: the axis, what counts for nothing there, and the reason."""
        return [(self.algebra.find(r.axis), r.neutral, r.reason) for r in self.inference.reductions]

    def resized(self, kept: Mapping[Axis, list[int]]) -> dict[str, Any]:
        """The arguments that change where only these units of some atomic axes are kept."""
        masks = {a: numpy.isin(numpy.arange(int(str(self.algebra.size(a)))), units) for a, units in kept.items()}
        widths = Widths(self.inference, masks)
        resizer = NodeResizer(widths, self.graph.module.graph, self.node)
        return self.rules[operator_key(self.node)].resize(self.call, resizer)
