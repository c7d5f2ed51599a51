"""Fold: factors go into the weights, units and branches at zero are removed, and a plain graph is left."""

from collections.abc import Iterator, Mapping, Sequence

import numpy
import torch
from torch import Tensor, fx

from graphprune.analysis.groups import Slot
from graphprune.analysis.linear_calls import read_call
from graphprune.errors import PlanError
from graphprune.gates.gated import Gated, Values
from graphprune.gates.sites import NORMS, Site, parameter_of
from graphprune.ir.graph import Graph
from graphprune.ir.operators import bind, operator_key
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply

# Looked through on the way to what makes a branch: what scales with its input.
_THROUGH = frozenset(
    {"aten.view", "aten.reshape", "aten._unsafe_view", "aten.clone", "aten._to_copy", "aten.dropout", "aten.transpose",
     "aten.permute", "aten.unsqueeze", "aten.squeeze", "aten.flatten"}
)  # fmt: skip


def fold(gated: Gated, values: Values) -> Graph:
    """The graph that computes what the gated one does under one mask, factors [units] for each candidate named.

    Raises PlanError for several masks, and for factors other than 0 and 1 that no weight can take: those of tied
    weights, and of branches that end in no call with weights of its own.
    """
    for id, value in gated.checked(values).items():
        if value.ndim != 1:
            raise PlanError(f"{id} has {len(value)} masks; a graph is folded under one")
    scaled = gated.graph.with_tensors(scaled_tensors(gated, values))
    return apply(scaled, plan_of_values(gated, values))


def plan_of_values(gated: Gated, values: Values) -> Plan:
    """The plan that keeps every unit whose factor is not zero."""
    kept = {id: tuple(torch.nonzero(value).flatten().tolist()) for id, value in values.items()}
    dropped = tuple(id for id in kept if id in gated.branches and not kept[id])
    keep = {id: units for id, units in kept.items() if id not in gated.branches and len(units) < len(values[id])}
    empty = next((id for id, units in keep.items() if not units), None)
    if empty is not None:
        raise PlanError(f"every unit of {empty} has the factor 0; one stays, or its branch goes")
    return Plan(keep, dropped, gated.statistics)


def scaled_tensors(gated: Gated, values: Values) -> dict[str, Tensor]:
    """The tensors that take factors other than 0 and 1, scaled."""
    tensors = gated.graph.tensors()
    changed = dict[str, Tensor]()
    for id, value in values.items():
        if bool(((value == 0) | (value == 1)).all()):
            continue
        for slot in folds_of(gated, id):
            old = changed.get(slot.name, tensors[slot.name])
            owner = torch.from_numpy(slot.owner).to(old.device)
            padded = torch.cat((value.detach().to(old), old.new_ones(1)))
            line = padded[owner.masked_fill(owner < 0, len(value))]
            new = old.detach() * line.view([-1 if d == slot.dim else 1 for d in range(old.ndim)])
            changed[slot.name] = (
                torch.nn.Parameter(new, old.requires_grad) if isinstance(old, torch.nn.Parameter) else new
            )
    return changed


def folds_of(gated: Gated, id: str) -> Sequence[Slot]:
    """The slots that take the factors of a candidate, each once. Raises PlanError where something else reads them."""
    if id in gated.branches:
        return own_weights(gated, id)
    sites = gated.sites.get(id, ())
    bare = next((site for site in sites if not site.folds), None)
    if bare is not None:
        where = (bare.call or bare.value).name
        raise PlanError(f"{id} takes factors of 0 and 1 alone: at {where} no weight is proportional to them")
    found = {(slot.name, slot.dim): slot for site in sites for slot in site.folds if acts(site, slot)}
    readers = {str(node.target): set(readers_of(node)) for node in gated.graph.module.graph.find_nodes(op="get_attr")}
    for name, dim in found:
        require_own(gated, id, name, readers, {site.call or site.value for site in sites if names(site, name, dim)})
    return tuple(found.values())


def acts(site: Site, slot: Slot) -> bool:
    """Whether a slot is of the dimension that the site scales: of a weight read along its inputs, those."""
    linear = read_call(site.call) if site.call is not None else read_call(site.value)
    if linear is None or slot.name != linear.weight:
        return True
    inputs = 0 if linear.transposed else 1
    return (slot.dim == inputs) == (site.call is not None)


def names(site: Site, name: str, dim: int) -> bool:
    return any((slot.name, slot.dim) == (name, dim) for slot in site.folds)


def require_own(gated: Gated, id: str, name: str, readers: Mapping[str, set[fx.Node]], own: set[fx.Node]) -> None:
    """Raise PlanError where a tensor is read by others than these calls, under this name or another."""
    tensors = gated.graph.tensors()
    tied = [other for other in readers if tensors[other] is tensors[name]]
    if any(readers[other] - own for other in tied):
        raise PlanError(f"{id} takes factors of 0 and 1 alone: {name} is read elsewhere as well; untie it first")


def readers_of(parameter: fx.Node) -> Iterator[fx.Node]:
    """The calls that read a parameter, through reshapes and conversions."""
    for user in parameter.users:
        if user.op == "call_function" and parameter_of(user) is not None:
            yield from readers_of(user)
        else:
            yield user


def own_weights(gated: Gated, id: str) -> tuple[Slot, ...]:
    """The weights whose scale is the scale of a residual branch."""
    node = next(node for node in gated.graph.nodes if node.name == gated.branches[id].branch)
    while operator_key(node) in _THROUGH:
        node = node.all_input_nodes[0]
    linear = read_call(node) if node.op == "call_function" else None
    parameters = gated.graph.parameters()
    if linear is not None:
        found = [name for name in (linear.weight, linear.bias) if name is not None]
    elif operator_key(node) in NORMS:
        arguments = bind(node)
        found = [str(arguments[key].target) for key in ("weight", "bias") if arguments.get(key) is not None]
    else:
        found = []
    if not found or any(len(list(parameters[name].shape)) == 0 for name in found):
        raise PlanError(f"{id} takes factors of 0 and 1 alone: it ends in {operator_key(node)}, which has no weights")
    readers = {str(n.target): set(readers_of(n)) for n in gated.graph.module.graph.find_nodes(op="get_attr")}
    for name in found:
        require_own(gated, id, name, readers, {node})
    return tuple(Slot(name, 0, numpy.zeros(len(parameters[name]), dtype=numpy.int64)) for name in found)
