"""Masked execution: a plan without changed shapes, switchable from call to call. The oracle of every rewrite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import is_not

import torch
from torch import Tensor, fx

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.axes.inference import Reduction
from graphprune.ir.graph import Graph, copy_nodes
from graphprune.ir.operators import opname, rebind
from graphprune.ir.plan import Plan
from graphprune.ir.types import TensorType, tensor_type
from graphprune.rewriting.apply import kept_masks
from graphprune.rewriting.widths import Widths


@dataclass(frozen=True, eq=False)
class Masked:
    """A graph that runs under any plan: what removed units have in parameters and buffers of floats, such as a table of
    positions, is zero; dropped branches are multiplied by zero. Units that the model chooses among are absent: where a
    softmax, a sum or a choice runs over them, removed ones hold what counts for nothing, such as -inf.

    Norms average over the full width, so this equals the rewritten graph with exact statistics.
    """

    graph: Graph
    analysis: Analysis

    def __call__(self, plan: Plan, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run under a plan; returns all outputs of the original contract, caches at their full width."""
        tensors = self.graph.tensors()
        state = {name: tensors[name] * mask for name, mask in self.masks(plan).items()}
        return self.run(plan, state, inputs)

    def run(self, plan: Plan, state: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run with these tensors in place of the graph's own; what a plan does beside them is done here."""
        device = next(iter(self.graph.tensors().values())).device
        gates = {n: torch.tensor(0.0 if id in plan.dropped else 1.0) for n, id in self.gates.items()}
        widths = Widths(self.analysis.inference, kept_masks(self.analysis, plan))
        for name, reduction in self.absent.items():
            gates[name] = broadcast(torch.from_numpy(widths.mask(reduction.axis)), reduction)
        state = {**state, **{name: value.to(device) for name, value in gates.items()}}
        return torch.func.functional_call(self.gated, state, tuple(inputs))  # type: ignore[no-any-return]

    def masks(self, plan: Plan) -> dict[str, Tensor]:
        """For each tensor that loses units, ones and zeros that broadcast over it."""
        tensors = {name: tensor for name, tensor in self.graph.tensors().items() if tensor.is_floating_point()}
        result = dict[str, Tensor]()
        for id, units in plan.keep.items():
            kept = torch.zeros(self.analysis.groups[id].units + 1, dtype=torch.bool)
            kept[list(units)] = True
            kept[-1] = True  # owner -1: indices that belong to no unit of this group stay
            for slot in self.analysis.groups[id].slots:
                if slot.name in tensors:
                    tensor = tensors[slot.name]
                    line = kept[torch.from_numpy(slot.owner)].to(tensor.device, tensor.dtype)
                    mask = line.view([-1 if d == slot.dim else 1 for d in range(tensor.ndim)])
                    result[slot.name] = result[slot.name] * mask if slot.name in result else mask
        return result

    @cached_property
    def gates(self) -> Mapping[str, str]:
        return {f"gates.{i}": branch.id for i, branch in enumerate(self.analysis.groups.branches)}

    @cached_property
    def absent(self) -> Mapping[str, Reduction]:
        filled = [r for r in self.analysis.chosen.reductions if r.neutral is not None]
        return {f"present_units.{i}": reduction for i, reduction in enumerate(filled)}

    @cached_property
    def gated(self) -> fx.GraphModule:
        """The module with every residual branch multiplied by its gate, and absent units made neutral."""
        graph, tensors = copy_nodes(self.graph.module.graph), dict(self.graph.tensors())
        nodes = {node.name: node for node in graph.nodes}
        for (name, _), branch in zip(self.gates.items(), self.analysis.groups.branches, strict=True):
            term = nodes[branch.branch]
            with graph.inserting_after(term):
                gate = graph.get_attr(name)
            gate.meta["value"] = TensorType(torch.float32, ())
            with graph.inserting_after(gate):
                product = graph.call_function(torch.ops.aten.mul.Tensor, (term, gate))
            product.meta = dict(term.meta)
            term.replace_all_uses_with(product, delete_user_cb=partial(is_not, product))
            tensors[name] = torch.tensor(1.0)
        for name, reduction in self.absent.items():
            insert_absent(graph, nodes, name, reduction)
            tensors[name] = broadcast(
                torch.ones(int(str(self.analysis.inference.algebra.size(reduction.axis)))).bool(), reduction
            )
        return fx.GraphModule(tensors, graph)


def broadcast(line: Tensor, reduction: Reduction) -> Tensor:
    """A mask along one dimension of an operand, with ones after it."""
    return line.view([-1] + [1] * (len(tensor_type(reduction.operand).shape) - reduction.dim - 1))


def insert_absent(graph: fx.Graph, nodes: Mapping[str, fx.Node], name: str, reduction: Reduction) -> None:
    """Let a call read what counts for nothing where a unit is absent; what is chosen is sorted, absent entries last."""
    call, operand = nodes[reduction.node.name], nodes[reduction.operand.name]
    dtype = tensor_type(reduction.operand).dtype
    with graph.inserting_before(call):
        mask = graph.get_attr(name)
        mask.meta["value"] = TensorType(torch.bool, ())
        filled = graph.call_function(
            torch.ops.aten.where.ScalarOther, (mask, operand, neutral_value(reduction.neutral, dtype))
        )
    filled.meta = dict(operand.meta)
    call.replace_input_with(operand, filled)
    if opname(call) == "topk":
        rebind(call, {"sorted": True})


def neutral_value(value: float | None, dtype: torch.dtype) -> float | int | bool:
    """The same in the type of a tensor; for integers the smallest and largest stand for infinities."""
    assert value is not None
    if dtype.is_floating_point:
        return value
    if dtype is torch.bool:
        return bool(value)
    ends = torch.iinfo(dtype)
    return int(max(ends.min, min(ends.max, value)))


def masked(graph: Graph) -> Masked:
    """Prepare a graph for masked execution; nothing is captured again."""
    return Masked(graph, analyze_axes(graph))
