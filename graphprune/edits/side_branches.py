"""Side branches: a second path beside a linear call, y = W x + B (A x), which adds nothing until it is trained.

Of AST's SLoRB (arXiv 2407.20584, section on sparse low-rank boosting): A sums neighbouring inputs, B is small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, fx

from graphprune.analysis.branches import SIDE_READ, SIDE_WRITE
from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.bounds import Count, require_limits
from graphprune.edits.tensors import read_new, require_free, with_all
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.types import TensorType, tensor_type

_aten = torch.ops.aten


@final
@dataclass(frozen=True)
class SideBranch:
    """The options of the edit: into how many sums the inputs go, which is the rank of what is added."""

    name: ClassVar[str] = "side-branch"
    rank: Count

    def __post_init__(self) -> None:
        require_limits(self, self.name)


def branch_off(graph: Graph, weights: Sequence[str], options: SideBranch) -> Graph:
    """Return the graph with a side branch at the linear call of each of these weights [outputs, inputs].

    `o_proj_side_read.weight` [rank, inputs] sums `rank` parts of the inputs, each of neighbours and all about as long;
    `o_proj_side_write.weight` [outputs, rank] is zero. Raises PlanError for a weight that is not read by exactly one
    linear call, and for one that has a branch. Of fewer inputs than the rank some sums are of none.
    """
    calls = {call.weight: call for call in find_linear_calls(graph)}
    fork, tensors = graph.fork(), dict(graph.tensors())
    nodes = {node.name: node for node in fork.nodes}
    for name in weights:
        if name not in calls or name.endswith((SIDE_READ, SIDE_WRITE)):
            raise PlanError(f"{name} is not the weight of one linear call, so that nothing can branch off beside it")
        read, write = branch_names(name)
        for each in (read, write):
            require_free(tensors, each)
        old, (outputs, inputs) = tensors[name], calls[name].matrix(tensors[name]).shape
        summing, nothing = pooling(options.rank, inputs), torch.zeros(outputs, options.rank)
        tensors[read] = torch.nn.Parameter(summing.to(old.device, old.dtype), old.requires_grad)
        tensors[write] = torch.nn.Parameter(nothing.to(old.device, old.dtype), old.requires_grad)
        add_branch(fork.module.graph, nodes, calls[name], (read, tensors[read]), (write, tensors[write]))
    return with_all(fork, tensors)


def branch_names(weight: str) -> tuple[str, str]:
    """The names of the two matrices of the branch beside a weight."""
    layer = weight.removesuffix(".weight")
    return f"{layer}{SIDE_READ}", f"{layer}{SIDE_WRITE}"


def pooling(rank: int, inputs: int) -> Tensor:
    """Ones [rank, inputs] where an input is in a part, in float32."""
    parts = torch.arange(inputs) * rank // inputs
    return (parts == torch.arange(rank)[:, None]).to(torch.float32)


def add_branch(
    graph: fx.Graph,
    nodes: dict[str, fx.Node],
    call: LinearCall,
    read: tuple[str, Tensor],
    write: tuple[str, Tensor],
) -> None:
    """Let all that reads a linear call read its sum with what the branch makes of the same inputs."""
    own, x = nodes[call.node.name], nodes[call.x.name]
    readers = list(own.users)
    after = own.next
    summed = linear_before(graph, after, x, *read)
    back = linear_before(graph, after, summed, *write)
    with graph.inserting_before(after):
        total = graph.call_function(_aten.add.Tensor, (own, back))
    total.meta |= {"value": own.meta["value"], "scope": own.meta.get("scope", "")}
    for reader in readers:
        reader.replace_input_with(own, total)


def linear_before(graph: fx.Graph, before: fx.Node, x: fx.Node, name: str, weight: Tensor) -> fx.Node:
    """A linear call of `x` and a new weight [outputs, inputs], before another node."""
    with graph.inserting_before(before):
        made = graph.call_function(_aten.linear.default, (x, x))
    made.args = (x, read_new(graph, made, name, weight))
    kind = tensor_type(x)
    shape = (*kind.shape[:-1], weight.shape[0])
    made.meta |= {"value": TensorType(kind.dtype, shape), "scope": before.meta.get("scope", "")}
    return made
