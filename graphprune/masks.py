"""Masked execution: a plan without changed shapes, switchable from call to call. The oracle of every rewrite."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from operator import is_not

import torch
from torch import Tensor, fx

from graphprune.analysis import Analysis, analyze_axes
from graphprune.ir import Graph, TensorType, copy_nodes
from graphprune.plan import Plan


@dataclass(frozen=True, eq=False)
class Masked:
    """A graph that runs under any plan: what removed units have in parameters and buffers of floats, such as a table of
    positions, is zero; dropped branches are multiplied by zero.

    Norms average over the full width, so this equals the rewritten graph with exact statistics.
    """

    graph: Graph
    analysis: Analysis

    def __call__(self, plan: Plan, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run under a plan; returns all outputs of the original contract, caches at their full width."""
        tensors = self.graph.tensors()
        state = {name: tensors[name] * mask for name, mask in self.masks(plan).items()}
        device = next(iter(tensors.values())).device
        for name, id in self.gates.items():
            state[name] = torch.tensor(0.0 if id in plan.dropped else 1.0, device=device)
        return torch.func.functional_call(self.gated, state, inputs)  # type: ignore[no-any-return]

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
    def gated(self) -> fx.GraphModule:
        """The module with every residual branch multiplied by its gate."""
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
        return fx.GraphModule(tensors, graph)


def masked(graph: Graph) -> Masked:
    """Prepare a graph for masked execution; nothing is captured again."""
    return Masked(graph, analyze_axes(graph))
