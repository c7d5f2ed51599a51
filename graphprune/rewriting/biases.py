"""Added biases: linear calls without one get a bias of zeros, which changes nothing until something is put into it."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.types import TensorType


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
    tensors, fork = dict(graph.tensors()), graph.fork()
    nodes = {node.name: node for node in fork.nodes}
    for call in missing:
        weight = tensors[call.weight]
        zeros = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        tensors[bias_name(call)] = torch.nn.Parameter(zeros, weight.requires_grad)
        node = nodes[call.node.name]
        with fork.module.graph.inserting_before(node):
            bias = fork.module.graph.create_node("get_attr", bias_name(call))
        bias.meta["value"] = TensorType(weight.dtype, (weight.shape[0],))
        node.args = (*node.args[:2], bias)
    return replace_tensors(fork, tensors)


def can_take_bias(call: LinearCall) -> bool:
    """Whether `add_biases` knows how: the operator has a place for it."""
    return call.bias is not None or not call.transposed


def bias_name(call: LinearCall) -> str:
    """The name of the bias that belongs to a weight."""
    scope, _, leaf = call.weight.rpartition(".")
    return f"{scope}.{leaf.removesuffix('weight')}bias" if scope else f"{leaf}_bias"


def replace_tensors(graph: Graph, tensors: dict[str, torch.Tensor]) -> Graph:
    module = torch.fx.GraphModule(tensors, graph.module.graph)
    module.train(graph.module.training)
    return replace(graph, module=module)
