"""Folded norms: what a norm multiplies by and adds goes into the calls that read it (SliceGPT, arXiv 2401.15024)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, fx

from graphprune.analysis.groups import Slot
from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.edits.biases import add_biases, can_take_bias
from graphprune.edits.obstacles import FOLDED, SHIFTED, find_obstacle, is_constant
from graphprune.edits.probes import probe
from graphprune.edits.tensors import like, require_whole, with_all
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import arguments_of, bind, function_of, opname, rebind, remove_dead
from graphprune.ir.types import tensor_type
from graphprune.weights.patterns import only_patterns

_NORMS = frozenset({"layer_norm", "rms_norm"})


@dataclass(frozen=True)
class Scaling:
    """A norm's weight at work: the call that multiplies by it, and the nodes that hold the factor and the bias."""

    name: str
    call: fx.Node
    factor: fx.Node
    bias: fx.Node | None


def fold_norms(graph: Graph, names: Sequence[str]) -> Graph:
    """Return the graph without these norm weights: W diag(w) in the place of each matrix W that reads the norm.

    A layer norm's bias b goes with its weight, as W b, into the biases of the calls, which are added where there are
    none. The factor may be made of the weight, as 1 + w. Raises PlanError where anything but matrices reads the norm.
    """
    scalings = [find_scaling(graph, name) for name in names]
    probed = probe(graph, [each.call.name for each in scalings])
    tensors, missing = dict(graph.tensors()), list[str]()
    for number, each in enumerate(scalings):
        along = probed.behind(number)
        slots = probed.slots(along)
        told = f"{each.name} cannot be folded into what reads it"
        allowed = FOLDED if each.bias is None else SHIFTED
        obstacle = find_obstacle(probed.graph, along, allowed, probed.probes, probed.probes[number])
        if obstacle is not None:
            raise PlanError(f"{told}: {obstacle}")
        require_whole(graph, slots, told)
        if each.bias is not None:
            missing += [c.weight for c in biased_calls(graph, slots, told) if c.bias is None]
    graph = add_biases(graph, missing)
    tensors = {**graph.tensors(), **tensors}
    calls = {call.weight: call for call in find_linear_calls(graph)}
    for number, each in enumerate(scalings):
        fold(tensors, each, probed.slots(probed.behind(number)), calls)
    fork = graph.fork()
    nodes = {node.name: node for node in fork.nodes}
    for each in scalings:
        unscale(nodes[each.call.name], nodes)
    remove_dead(fork.module.graph)
    return replace(with_all(fork, tensors), companions=only_patterns(graph.companions))


def find_scaling(graph: Graph, name: str) -> Scaling:
    """The call that multiplies by a norm's weight. Raises PlanError where that is no one call."""
    nodes = [n for n in graph.module.graph.find_nodes(op="get_attr") if str(n.target) == name]
    node = nodes[0] if len(nodes) == 1 else None
    while node is not None and len(node.users) == 1 and is_constant(next(iter(node.users))):
        node = next(iter(node.users))
    call = next(iter(node.users)) if node is not None and len(node.users) == 1 else None
    if node is None or call is None or len(tensor_type(node).shape) != 1:
        raise PlanError(f"{name} is not the weight of one norm, so that it cannot be folded")
    arguments = bind(call)
    if opname(call) in _NORMS and arguments["weight"] is node and len(arguments["normalized_shape"]) == 1:
        return Scaling(name, call, node, arguments.get("bias"))
    same = call.meta["value"] == other_operand(call, node).meta["value"] if opname(call) == "mul" else False
    if not same:
        raise PlanError(f"{name} is not the weight of one norm, so that it cannot be folded (at {call.name})")
    return Scaling(name, call, node, None)


def other_operand(call: fx.Node, node: fx.Node) -> fx.Node:
    return next(each for each in call.all_input_nodes if each is not node)


def biased_calls(graph: Graph, slots: Sequence[Slot], told: str) -> list[LinearCall]:
    """The linear calls whose inputs these slots are. Raises PlanError where one is none, or can take no bias."""
    calls = {(c.weight, 0 if c.transposed else 1): c for c in find_linear_calls(graph)}
    found = [calls.get((slot.name, slot.dim)) for slot in slots]
    for slot, call in zip(slots, found, strict=True):
        if call is None or not can_take_bias(call):
            raise PlanError(f"{told}: the norm has a bias, and what reads {slot.name} can take none")
    return cast("list[LinearCall]", found)


def fold(tensors: dict[str, Tensor], scaling: Scaling, slots: Sequence[Slot], calls: Mapping[str, LinearCall]) -> None:
    """Put new weights, and biases, of the calls that read a norm in the place of the old."""
    factor = value_of(scaling.factor, tensors).double()
    shift = None if scaling.bias is None else value_of(scaling.bias, tensors).double()
    for slot in slots:
        old = tensors[slot.name]
        wide = old.detach().double()
        if shift is not None:
            bias = tensors[str(calls[slot.name].bias)]
            moved = calls[slot.name].matrix(wide) @ shift
            tensors[str(calls[slot.name].bias)] = like(bias.detach().double() + moved, bias)
        tensors[slot.name] = like(wide * factor.view([-1 if d == slot.dim else 1 for d in range(old.ndim)]), old)


def value_of(node: fx.Node, tensors: Mapping[str, Tensor]) -> Tensor:
    """What a node holds that is made of parameters alone."""
    if node.op == "get_attr":
        return tensors[str(node.target)].detach()
    values = {each: value_of(each, tensors) for each in node.all_input_nodes}
    args, kwargs = arguments_of(node, values)
    found = function_of(node)(*args, **kwargs)
    assert isinstance(found, Tensor)
    return found


def unscale(call: fx.Node, nodes: Mapping[str, fx.Node]) -> None:
    """Take weight and bias away from a norm, or a product with a weight out of the graph."""
    if opname(call) in _NORMS:
        rebind(call, {"weight": None} | ({"bias": None} if opname(call) == "layer_norm" else {}))
        return
    normed = next(each for each in call.all_input_nodes if not is_constant(each))
    call.replace_all_uses_with(normed)
