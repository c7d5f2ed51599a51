"""Added biases: linear calls without one get a bias of zeros, which changes nothing until something is put into it."""

from collections.abc import Sequence

import torch
from torch import fx

from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.edits.tensors import name_beside, read_new, with_all
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import remove_dead


def add_biases(graph: Graph, weights: Sequence[str]) -> Graph:
    """Return the graph with a bias of zeros at the linear call of each of these weights; those that have one keep it.

    The new parameter is named after its weight: `o_proj.bias` beside `o_proj.weight`. Raises PlanError for a weight
    that is not read by exactly one `linear` call.
    """
    calls = {call.weight: call for call in find_linear_calls(graph)}
    for name in weights:
        if name not in calls:
            raise PlanError(f"{name} is not the weight of one linear call, so that no bias can be added there")
    missing = [calls[name] for name in weights if calls[name].bias is None]
    if not missing:
        return graph
    stuck = next((call for call in missing if not can_take_bias(call)), None)
    if stuck is not None:
        raise PlanError(f"the call that reads {stuck.weight} has no place for a bias")
    tensors, fork = dict(graph.tensors()), graph.fork()
    nodes = {node.name: node for node in fork.nodes}
    for call in missing:
        weight, node, name = tensors[call.weight], nodes[call.node.name], bias_name(call)
        zeros = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        tensors[name] = torch.nn.Parameter(zeros, weight.requires_grad)
        # x times a transposed weight is a linear call by another name, which has no place for a bias.
        node.target, node.kwargs = torch.ops.aten.linear.default, {}
        node.args = (nodes[call.x.name], stored(node), read_new(fork.module.graph, node, name, zeros))
    remove_dead(fork.module.graph)
    return with_all(fork, tensors)


def stored(call: fx.Node) -> fx.Node:
    """The weight that a call reads, [outputs, inputs], where it is not turned."""
    weight = call.args[1]
    while isinstance(weight, fx.Node) and weight.op != "get_attr":
        weight = weight.args[0]
    assert isinstance(weight, fx.Node)
    return weight


def can_take_bias(call: LinearCall) -> bool:
    """Whether `add_biases` knows how: the operator has a place for it."""
    return call.bias is not None or not call.transposed


def bias_name(call: LinearCall) -> str:
    """The name of the bias that belongs to a weight."""
    return name_beside(call.weight, "bias")
