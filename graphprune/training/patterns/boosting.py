"""Boosting: side branches that make up for what is masked (SLoRB of AST, arXiv 2407.20584).

A branch sums each group of neighbouring inputs and adds, for every output, the mean of the group's masked weights times
the sum: then the weights of a group and its branch have the mean that the dense weights had.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from graphprune.analysis.linear_calls import LinearCall
from graphprune.edits.side_branches import SideBranch, branch_names
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Edit
from graphprune.spec import print_spec


def branch_edits(graph: Graph, calls: Sequence[LinearCall], size: int) -> tuple[Edit, ...]:
    """The edits that give these calls branches of one sum for each `size` inputs, where they have none."""
    tensors = graph.tensors()
    missing = [call for call in calls if branch_names(call.weight)[1] not in tensors]
    inputs = {call.weight: call.matrix(tensors[call.weight]).shape[1] for call in missing}
    return tuple(Edit(print_spec(SideBranch(-(-count // size))), name) for name, count in inputs.items())


def group_means(call: LinearCall, tensors: Mapping[str, Tensor], kept: Tensor) -> Tensor:
    """For each output and group of inputs the mean of the masked weights [outputs, rank], those kept counted as 0."""
    read = tensors[branch_names(call.weight)[0]].detach()
    masked = call.matrix(tensors[call.weight].detach() * ~kept)
    return masked @ read.T / read.sum(1).clamp_min(1.0)
