"""Gated: a graph whose units and residual branches carry factors: masks as inputs, soft or hard, many at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import is_not

import numpy
import torch
from torch import Tensor, fx

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.analysis.groups import BLOCKS, Branch, Group
from graphprune.analysis.owners import Owner
from graphprune.errors import PlanError
from graphprune.gates.factors import counted, leave, norm_of_survivors, present, scale, scale_mean, spread
from graphprune.gates.sites import NORMS, Site, by_rows, calls, dims_of, find_sites, keeps, owner_of
from graphprune.ir.graph import Graph, copy_nodes
from graphprune.ir.operators import bind, operator_key, opname, rebind
from graphprune.ir.plan import Statistics
from graphprune.ir.types import TensorType, tensor_type
from graphprune.rewriting.masked import neutral_value

Values = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Gated:
    """A graph with a gate on each unit of its candidates. Call it with values for gates and the graph's inputs.

    `sites` are those of every candidate that is no block and not chosen from, `branches` those of every block.
    `told_apart` says that several masks can go through at once, since rows are told apart at every gate.
    """

    graph: Graph
    analysis: Analysis
    candidates: tuple[Group, ...]
    statistics: Statistics
    sites: Mapping[str, tuple[Site, ...]]
    branches: Mapping[str, Branch]
    module: fx.GraphModule
    buffers: Mapping[str, str]
    told_apart: bool

    def __call__(self, values: Values, *inputs: Tensor) -> tuple[Tensor, ...]:
        """All outputs of the graph under masks: for each candidate that is named, factors [units] or [masks, units].

        Of several masks each has its part of the rows, one after the other: as many rows as the first input has,
        divided by the number of masks. Gradients flow into values; gates of what is chosen from take 0 or 1. Caches
        keep their full width. Raises PlanError for names and shapes that do not fit.
        """
        state = {self.buffers[id]: rows_of(value) for id, value in self.checked(values).items()}
        rows = len(inputs[0])
        for masks in {len(value) for value in state.values()} - {1}:
            if rows % masks:
                raise PlanError(f"{rows} rows are not as many for each of {masks} masks")
        return torch.func.functional_call(self.module, state, tuple(inputs))  # type: ignore[no-any-return]

    def checked(self, values: Values) -> Values:
        """The values, where each fits its candidate."""
        known = {group.id: group for group in self.candidates}
        for id, value in values.items():
            if id not in known:
                raise PlanError(f"there is no gate {id}; gates are on the candidates that `gate` was given")
            if value.ndim not in (1, 2) or value.shape[-1] != known[id].units:
                raise PlanError(f"{id} takes factors for {known[id].units} units, not of shape {list(value.shape)}")
            if known[id].chosen and not bool(((value == 0) | (value == 1)).all()):
                raise PlanError(f"{id} is chosen from: a unit is there or not, its factor is 1 or 0")
        return values


def rows_of(value: Tensor) -> Tensor:
    return value if value.ndim == 2 else value.unsqueeze(0)


def gate(graph: Graph, candidates: Sequence[Group], statistics: Statistics = "exact") -> Gated:
    """Put gates on the units of candidates: groups, or residual branches and layers as groups of one unit.

    With `survivors` norms average over what is left, as a cut graph does; with `exact` over the full width, as the
    masked one. Raises PlanError for a candidate whose units cannot be scaled.
    """
    analysis = analyze_axes(graph)
    plain = [group for group in candidates if group.kind not in BLOCKS and not group.chosen]
    sites = {group.id: find_sites(analysis, group) for group in plain}
    branches = {group.id: branch_of(analysis, group) for group in candidates if group.kind in BLOCKS}
    buffers = {group.id: f"gate_{index}" for index, group in enumerate(candidates)}
    nodes, tensors = copy_nodes(graph.module.graph), dict(graph.tensors())
    put = Insertion(analysis, nodes, tensors)
    for group in candidates:
        like = next(iter(graph.parameters().values()))
        tensors[buffers[group.id]] = torch.ones(1, group.units, dtype=like.dtype, device=like.device)
        opened = put.read(buffers[group.id])
        if group.id in branches:
            put.on_branch(opened, branches[group.id])
        elif group.chosen:
            put.on_choices(opened, group)
        else:
            put.on_sites(opened, group, sites[group.id], statistics == "survivors" and group.averaged)
    module = fx.GraphModule(tensors, nodes)
    module.train(graph.module.training)
    return Gated(graph, analysis, tuple(candidates), statistics, sites, branches, module, buffers, put.told_apart)


def branch_of(analysis: Analysis, block: Group) -> Branch:
    """The residual branch that a block stands for."""
    found = next((branch for branch in analysis.groups.branches if branch.id == block.id), None)
    if found is None:
        raise PlanError(f"{block.id} is no residual branch of this graph")
    return found


class Insertion:
    """Puts gates into a copy of a graph, in place; nodes are found by the names that they have in both."""

    def __init__(self, analysis: Analysis, nodes: fx.Graph, tensors: dict[str, Tensor]) -> None:
        self.analysis, self.nodes, self.tensors = analysis, nodes, tensors
        self.own = {node.name: node for node in nodes.nodes}
        self.start = next(node for node in nodes.nodes if node.op == "call_function")
        placeholder = next(node for node in nodes.nodes if node.op == "placeholder")
        self.rows = self.call(torch.ops.aten.sym_size.int, placeholder, 0)
        self.told_apart = True
        self.reads: dict[tuple[str, str], fx.Node] = {}  # what a call reads in the place of a value
        self.lines: dict[tuple[str, bytes], fx.Node] = {}

    def read(self, name: str) -> fx.Node:
        with self.nodes.inserting_before(self.start):
            return self.nodes.get_attr(name)

    def call(self, function: object, *arguments: object) -> fx.Node:
        with self.nodes.inserting_before(self.start):
            return self.nodes.call_function(function, arguments)  # type: ignore[arg-type]

    def line(self, gate: fx.Node, group: Group, owned: Owner) -> fx.Node:
        """The factor of each index of a dimension by the units that own them: made once, however many sites read it."""
        if numpy.array_equal(owned, numpy.arange(group.units)):
            return gate
        key = (gate.name, owned.tobytes())
        if key not in self.lines:
            name, owner = f"owner_{len(self.tensors)}", torch.from_numpy(owned)
            device = next(iter(self.tensors.values())).device
            self.tensors[name] = owner.masked_fill(owner < 0, group.units).to(device)  # behind the last stands a one
            self.lines[key] = self.call(spread, gate, self.read(name))
        return self.lines[key]

    def on_sites(self, gate: fx.Node, group: Group, sites: Sequence[Site], survivors: bool) -> None:
        if survivors:
            self.on_means(gate, group)
        for site in sites:
            line = self.line(gate, group, site.owner)
            if survivors and operator_key(site.value) in NORMS and site.call is None:
                self.average_survivors(self.own[site.value.name], line, site)
            self.scale(site.value, site.call, line, site.dim, site.by_row)

    def scale(self, value: fx.Node, call: fx.Node | None, line: fx.Node, dim: int, by_row: bool) -> None:
        """Have a value scaled, for one call or for all."""
        self.told_apart &= by_row or (tensor_type(value).shape[0] == 1 and dim > 0)
        own = self.own[value.name] if call is None else self.reads.get((value.name, call.name), self.own[value.name])
        place = self.nodes.inserting_after(own) if call is None else self.nodes.inserting_before(self.own[call.name])
        with place:
            scaled = self.nodes.call_function(scale, (own, line, dim, by_row, self.rows))
        scaled.meta = dict(own.meta)
        if call is None:
            own.replace_all_uses_with(scaled, delete_user_cb=partial(is_not, scaled))
        else:
            self.own[call.name].replace_input_with(own, scaled)
            self.reads[value.name, call.name] = scaled

    def on_branch(self, gate: fx.Node, branch: Branch) -> None:
        term = next(node for node in self.analysis.graph.nodes if node.name == branch.branch)
        self.scale(term, None, gate, len(tensor_type(term).shape) - 1, by_rows(self.analysis, term))

    def on_choices(self, gate: fx.Node, group: Group) -> None:
        """Make absent units count for nothing, as masked execution does."""
        algebra = self.analysis.inference.algebra
        atom = algebra.find(self.analysis.atoms[group.id])
        slots = {
            slot for slot, axes in self.analysis.chosen.slots.items() if any(atom in algebra.atoms(a) for a in axes)
        }
        for reduction in self.analysis.chosen.reductions:
            own = set(map(algebra.find, algebra.atoms(reduction.axis)))
            if reduction.neutral is None or not own & {atom, *slots}:
                continue
            size = int(str(algebra.size(reduction.axis)))
            line = gate if atom in own else self.call(counted, gate, size)
            call, operand = self.own[reduction.node.name], self.own[reduction.operand.name]
            dtype = tensor_type(reduction.operand).dtype
            by_row = by_rows(self.analysis, reduction.operand)
            self.told_apart &= by_row
            arguments = (operand, line, reduction.dim, by_row)
            with self.nodes.inserting_before(call):
                filled = self.nodes.call_function(leave, (*arguments, neutral_value(reduction.neutral, dtype)))
            filled.meta = dict(operand.meta)
            call.replace_input_with(operand, filled)
            if opname(call) == "topk":
                rebind(call, {"sorted": True})

    def on_means(self, gate: fx.Node, group: Group) -> None:
        """Have the means of norms that are written out run over what is left."""
        for mean in calls(self.analysis):
            operand = mean.all_input_nodes[0] if operator_key(mean) == "aten.mean" else None
            dims = [] if operand is None else dims_of(self.analysis, group, operand)
            if operand is None or not dims or keeps(self.analysis, group, mean):
                continue
            (dim,), by_row = dims, by_rows(self.analysis, operand)
            line = self.line(gate, group, owner_of(self.analysis, group, operand, dim))
            own = self.own[mean.name]
            with self.nodes.inserting_before(own):
                read = self.nodes.call_function(present, (self.own[operand.name], line, dim, by_row))
            own.replace_input_with(self.own[operand.name], read)
            with self.nodes.inserting_after(own):
                scaled = self.nodes.call_function(scale_mean, (own, line, by_row))
            read.meta, scaled.meta = dict(operand.meta), dict(own.meta)
            own.replace_all_uses_with(scaled, delete_user_cb=partial(is_not, scaled))

    def average_survivors(self, norm: fx.Node, line: fx.Node, site: Site) -> None:
        """Have a norm take its statistics of what is left."""
        found, key = bind(norm), operator_key(norm)
        if key == "aten.group_norm" or len(found["normalized_shape"]) != 1:
            raise PlanError(f"no statistics of survivors for the norm at {norm.name}; take exact ones")
        value = norm.meta["value"]
        assert isinstance(value, TensorType)
        eps = torch.finfo(value.dtype).eps if found["eps"] is None else found["eps"]
        centred = key == "aten.layer_norm"
        arguments = (found["input"], line, found["weight"], found.get("bias"), eps, centred, site.by_row)
        with self.nodes.inserting_before(norm):
            new = self.nodes.call_function(norm_of_survivors, arguments)
        new.meta = dict(norm.meta)
        norm.replace_all_uses_with(new)
        self.own[site.value.name] = new
        self.nodes.erase_node(norm)
