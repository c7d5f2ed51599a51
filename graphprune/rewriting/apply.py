"""Rewrite: apply a plan to a graph. The only place where anything becomes smaller."""

from collections.abc import Mapping
from dataclasses import replace

import numpy
import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.analysis.choices import slot_masks
from graphprune.analysis.groups import Groups
from graphprune.axes.algebra import Axis
from graphprune.axes.inference import Axes, Call
from graphprune.axes.rules import all_rules
from graphprune.edits.editing import edited
from graphprune.errors import InvariantError, PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Lineage, chain
from graphprune.ir.operators import operator_key, rebind, remove_dead
from graphprune.ir.plan import Plan
from graphprune.ir.types import NodeValue, TensorType
from graphprune.ir.verification import verify
from graphprune.rewriting.branch_dropping import drop_branches
from graphprune.rewriting.matching import match_groups
from graphprune.rewriting.norm_statistics import keep_statistics
from graphprune.rewriting.widths import Mask, NodeResizer, Widths
from graphprune.weights.patterns import broken_groups


def apply(graph: Graph, plan: Plan, analysis: Analysis | None = None) -> Graph:
    """Return the graph that keeps what the plan keeps; the input graph stays as it is.

    Makes the plan's edits first. Slices parameters and buffers, recomputes every integer that follows a pruned axis,
    removes dropped branches with their cache entries, and checks the result: shapes by propagation, parameters against
    the cost polynomial.
    Raises PlanError where the plan does not fit, InvariantError where the result would be wrong.
    """
    if plan.edits:
        graph, analysis = edited(graph, plan.edits), None
    analysis = analysis or analyze_axes(graph)
    check_plan(analysis, plan)
    widths = Widths(analysis.inference, kept_masks(analysis, plan))
    result = cut(graph, widths)
    if plan.statistics == "exact":
        result = keep_statistics(result, graph, widths)
    result = drop_branches(result, [b for b in analysis.groups.branches if b.id in plan.dropped])
    remove_dead(result.module.graph)
    result = discard_unused(result)
    require_whole_groups(result)
    verify(result)
    check_count(result, analysis, plan)
    return replace(result, lineage=extend(graph.lineage, plan, analysis.groups, result))


def require_whole_groups(graph: Graph) -> None:
    """Raise PlanError where a cut has gone through the groups of a pattern such as 2:4."""
    for name, pattern in broken_groups(graph.companions):
        raise PlanError(
            f"the plan cuts {name} within groups of {pattern.size} inputs, so that it would not be {pattern} any more; "
            "keep whole groups, or sparsify after the cut"
        )


def check_plan(analysis: Analysis, plan: Plan) -> None:
    """Every id is known, every kept unit exists, nothing locked is cut and nothing is cut to nothing."""
    known, branches = analysis.groups.by_id(), {b.id for b in analysis.groups.branches}
    for id in plan.dropped:
        if id not in branches:
            raise PlanError(f"the plan drops {id}, which is no residual branch of this model")
    for id, units in plan.keep.items():
        if id not in known:
            raise PlanError(f"the plan names the group {id}, which this model does not have")
        group = known[id]
        if not units or list(units) != sorted(set(units)) or units[0] < 0 or units[-1] >= group.units:
            raise PlanError(f"the plan keeps units of {id} that are not a sorted choice among its {group.units}")
        if group.locked and len(units) < group.units:
            raise PlanError(f"the plan cuts {id}, which is locked: {group.locked}")
        if len(units) < group.least:
            raise PlanError(f"the plan keeps {len(units)} units of {id}, from which {group.least} are always chosen")


def kept_masks(analysis: Analysis, plan: Plan) -> Mapping[Axis, Mask]:
    """Which units of every atomic axis stay, where not all do."""
    masks: dict[Axis, Mask] = {}
    for id, units in plan.keep.items():
        mask = numpy.zeros(analysis.groups[id].units, dtype=bool)
        mask[list(units)] = True
        if not mask.all():
            masks[analysis.inference.algebra.find(analysis.atoms[id])] = mask
    return masks | slot_masks(analysis.inference, analysis.chosen, masks)


def cut(graph: Graph, widths: Widths) -> Graph:
    """Slice every tensor along its axes and recompute every integer that follows one."""
    old = graph.tensors()
    nodes = {str(node.target): node for node in graph.module.graph.find_nodes(op="get_attr")}
    new = {name: cut_tensor(tensor, nodes[name], widths) for name, tensor in old.items()}
    result = graph.with_tensors({name: tensor for name, tensor in new.items() if tensor is not old[name]})
    rules = all_rules()
    result = replace(result, companions=cut_companions(graph, nodes, widths))
    renamed = {node.name: node for node in result.nodes}
    for node in graph.nodes:
        if node not in widths.inference.axes and node not in widths.inference.outputs:
            continue
        copy = renamed[node.name]
        rule = rules.get(operator_key(node)) if node.op == "call_function" else None
        if rule is not None:
            resizer = NodeResizer(widths, result.module.graph, copy)
            changes = rule.resize(Call(node, widths.inference), resizer)
            if changes:
                rebind(copy, {k: translate(v, renamed) for k, v in changes.items()})
        copy.meta["value"] = resized(node, widths)
    result.module.recompile()
    return result


def translate(argument: Argument, renamed: Mapping[str, fx.Node]) -> Argument:
    """Arguments that rules copied from the old graph refer to the nodes of the new one."""
    return torch.fx.node.map_arg(argument, lambda n: renamed.get(n.name, n))


def resized(node: fx.Node, widths: Widths) -> NodeValue:
    """What a node holds, with the new sizes of its axes."""
    value: NodeValue = node.meta["value"]
    if isinstance(value, TensorType):
        return resized_tensor(value, widths.inference.axes[node], widths)
    assert isinstance(value, tuple)
    outputs = zip(value, widths.inference.outputs[node], strict=True)
    return tuple(resized_tensor(part, axes, widths) if isinstance(part, TensorType) else part for part, axes in outputs)


def resized_tensor(value: TensorType, axes: Axes, widths: Widths) -> TensorType:
    return TensorType(value.dtype, tuple(widths.size(axis) for axis in axes))


def cut_tensor(tensor: Tensor, node: fx.Node, widths: Widths) -> Tensor:
    """The kept part of a parameter or buffer; the same object where nothing is removed."""
    result = tensor.detach()
    for dim, axis in enumerate(widths.inference.axes[node]):
        mask = widths.mask(axis)
        if not mask.all():
            kept = torch.from_numpy(numpy.flatnonzero(mask)).to(tensor.device)
            result = result.index_select(dim, kept)
    if result.shape == tensor.shape:
        return tensor
    return nn.Parameter(result, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else result


Companions = Mapping[str, Mapping[str, Tensor]]


def cut_companions(graph: Graph, nodes: Mapping[str, fx.Node], widths: Widths) -> Companions:
    """The companions of all parameters, each cut like its parameter."""
    return {
        kind: {name: cut_tensor(tensor, nodes[name], widths) for name, tensor in tensors.items()}
        for kind, tensors in graph.companions.items()
    }


def discard_unused(graph: Graph) -> Graph:
    """Drop tensors that no node reads any more, and their companions."""
    module = fx.GraphModule(dict(graph.tensors()), graph.module.graph)
    module.train(graph.module.training)
    left = replace(graph, module=module)
    names = left.parameters()
    companions = {
        kind: {name: tensor for name, tensor in tensors.items() if name in names}
        for kind, tensors in graph.companions.items()
    }
    return replace(left, companions=companions)


def extend(lineage: Lineage, plan: Plan, before: Groups, result: Graph) -> Lineage:
    """The lineage of the result of a plan for a graph with this lineage."""
    matched = match_groups(before, plan, analyze_axes(result).groups)
    return chain(lineage, Lineage(plan, {new: old for new, old in matched.items() if new != old}))


def check_count(result: Graph, analysis: Analysis, plan: Plan) -> None:
    """The parameters left must be what the cost polynomial says."""
    sizes = {**analysis.groups.sizes(), **plan.widths()}
    predicted, left = analysis.groups.costs.parameters(sizes), result.parameter_count()
    if predicted != left:
        raise InvariantError(f"the plan should leave {predicted:,} parameters, the rewritten graph has {left:,}")
