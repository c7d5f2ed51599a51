"""Loss curves: how much the loss rises when one width alone is cut, measured at a few counts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.analysis.groups import Slot
from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.budget.budgets import Width
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Lineage
from graphprune.ir.plan import Plan
from graphprune.pruning.activations.observe import Reading, observe
from graphprune.pruning.interfaces import Compensation, view
from graphprune.pruning.selection import select
from graphprune.pruning.signals.elimination import invert
from graphprune.pruning.signals.token_weights import weighed_moment
from graphprune.rewriting.apply import apply
from graphprune.rewriting.masked import Masked
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.loss import Loss, batch_loss, output_loss, predictions

Curve = NDArray[numpy.float64]


@dataclass(frozen=True, eq=False)
class CutLoss:
    """Measures the mean loss of a graph, in nats a token, under small plans.

    `batches` are what the loss is measured on; `scores` say which units stay. With a `compensation` the consumers of
    what is cut are solved anew first: from second moments of their inputs over `text`, in one pass for all, where
    removing a unit is the same as zeroing it; and by the compensation itself where a norm runs over the units. `text`
    should be other rows than `batches`, or a compensation that learns them by heart looks better than it is.
    """

    graph: Graph
    batches: Sequence[Batch]
    text: Sequence[Batch]
    scores: Mapping[str, Tensor]
    loss: Loss | None = None
    compensation: Compensation | None = None
    damping: float = 0.01

    def measure(self, counts: Mapping[str, int]) -> float:
        """The mean loss with these counts, everything else whole."""
        plan = select(self.analysis.groups, counts, self.scores)
        if plan.dropped or any(self.analysis.groups[id].averaged for id in plan.keep):
            return self.measure_cut(plan)
        state = self.masked_state(plan)
        return self.mean(lambda batch: self.run_masked(plan, state, batch))

    def measure_cut(self, plan: Plan) -> float:
        """The mean loss of the rewritten graph."""
        start = replace(self.graph, lineage=Lineage())  # compensation compares the cut with this graph alone
        cut = apply(start, plan, self.analysis)
        if self.compensation is not None:
            cut = self.compensation.compensate(start, cut, view(start, (), self.text, self.loss))
        return self.mean(lambda batch: batch_loss(cut, batch, self.loss))

    def masked_state(self, plan: Plan) -> dict[str, Tensor]:
        """Every parameter that the plan changes: zero where units went, and solved anew where it reads them."""
        tensors, masks = self.graph.tensors(), self.masked.masks(plan)
        state = {name: tensors[name].detach() * mask for name, mask in masks.items()}
        if self.compensation is not None:
            for name, kept in self.kept_inputs(plan).items():
                call = self.calls[name]
                weight = call.matrix(tensors[name].detach())
                solved = call.matrix(solve_kept(weight, self.moments[call.x.name], kept, self.damping))
                state[name] = torch.where(masks[name] != 0, solved, 0)
        return state

    def kept_inputs(self, plan: Plan) -> dict[str, Tensor]:
        """For each linear call, by its weight, that reads units which the plan cuts: the inputs that stay."""
        found: dict[str, Tensor] = {}
        for id, units in plan.keep.items():
            group = self.analysis.groups[id]
            kept = torch.zeros(group.units + 1, dtype=torch.bool)
            kept[[*units, -1]] = True  # owner -1: inputs that belong to no unit
            for slot in group.slots:
                if self.reads(slot):
                    line = kept[torch.from_numpy(slot.owner)]
                    found[slot.name] = found[slot.name] & line if slot.name in found else line
        return found

    def run_masked(self, plan: Plan, state: dict[str, Tensor], batch: Batch) -> Tensor:
        values = self.masked.run(plan, state, graph_inputs(self.graph, batch))
        return output_loss(self.graph, values, batch, self.loss)

    def mean(self, loss: Callable[[Batch], Tensor]) -> float:
        with torch.no_grad():
            total = sum(float(loss(batch)) * predictions(batch) for batch in self.batches)
        return total / sum(map(predictions, self.batches))

    @cached_property
    def analysis(self) -> Analysis:
        return analyze_axes(self.graph)

    @cached_property
    def masked(self) -> Masked:
        return Masked(self.graph, self.analysis)

    @cached_property
    def calls(self) -> dict[str, LinearCall]:
        """The linear calls that can be solved, by their weights."""
        return {call.weight: call for call in find_linear_calls(self.graph)}

    @cached_property
    def moments(self) -> dict[str, Tensor]:
        """The second moment of what each call reads that has cut inputs, by the name of that node."""
        by_id = self.analysis.groups.by_id()
        groups = [by_id[id] for id in self.scores if id in by_id]
        slots = [slot for group in groups if not group.averaged for slot in group.slots]
        nodes = [self.calls[slot.name].x.name for slot in slots if self.reads(slot)]
        return second_moments(self.graph, nodes, self.text)

    def reads(self, slot: Slot) -> bool:
        """Whether this is the input side of a call that can be solved."""
        call = self.calls.get(slot.name)
        return call is not None and slot.dim == (0 if call.transposed else 1)


def second_moments(graph: Graph, nodes: Sequence[str], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """E[x xᵀ] of the last dimension of each node, over tokens of which none rules: float64 [k, k]."""
    found = observe(graph, {node: Reading((node,), weighed_moment) for node in nodes}, batches)
    tokens = sum(map(predictions, batches))
    return {node: moment / tokens for node, moment in found.items()}


def solve_kept(weight: Tensor, moment: Tensor, kept: Tensor, damping: float) -> Tensor:
    """The weight [o, k] whose kept inputs alone come nearest to what all gave, in mean square: others are zero.

    W_S = W H_:S H_SS⁻¹, with each entry of H's diagonal damped relative to itself.
    """
    damped = moment + torch.diag(max(damping, 1e-8) * moment.diagonal() + 1e-30)
    chosen = torch.nonzero(kept).flatten().to(moment.device)
    columns = damped[:, chosen]
    solved = (invert(columns[chosen]) @ (columns.T @ weight.double().T)).T
    result = torch.zeros_like(weight)
    result[:, chosen] = solved.to(weight.dtype)
    return result


def saturate(curve: Curve, ceiling: float) -> Curve:
    """Rises in a currency in which cuts add up: -ceiling log(1 - rise / ceiling).

    A model that knows nothing can lose no more, so what several cuts do together is less than the sum: the share of
    `ceiling` that is left after each, 1 - rise / ceiling, is multiplied. A rise above 98 % of it counts as that.
    """
    return numpy.asarray(-ceiling * numpy.log1p(-numpy.minimum(curve / ceiling, 0.98)), dtype=numpy.float64)


def measure_curves(probe: CutLoss, widths: Sequence[Width], levels: int) -> tuple[Curve, ...]:
    """For each width, the rise of the loss at each of its levels, in nats a token: measured at `levels` of them.

    These are spaced evenly from the least on; those between are interpolated. A curve never falls as units go, and is
    0 with all of them.
    """
    whole = probe.measure({})
    curves = []
    for width in widths:
        places = numpy.unique(numpy.linspace(0, len(width.levels) - 1, levels + 1).round().astype(numpy.int64))
        rises = [probe.measure(width.at(int(place))) - whole for place in places[:-1]]
        curves.append(interpolate(width.levels, places, [*rises, 0.0]))
    return tuple(curves)


def interpolate(levels: NDArray[numpy.int64], places: NDArray[numpy.int64], rises: Sequence[float]) -> Curve:
    """The rise at every level, from those at a few places, the last of which is the full width."""
    falling = numpy.maximum.accumulate(numpy.asarray(rises, dtype=numpy.float64)[::-1])[::-1]
    return numpy.asarray(numpy.interp(levels, levels[places], falling), dtype=numpy.float64)
