"""The joint run: the unpruned and the cut model side by side, and each linear call of the cut one solved on the way."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor, fx

from graphprune.analysis.analyse import analyze_axes
from graphprune.analysis.branches import find_branches
from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.ir.graph import Graph
from graphprune.ir.operators import SAME_VALUES
from graphprune.passes.compensation.reading import Reading, read
from graphprune.pruning.signals.token_weights import flat, text_length
from graphprune.rewriting.apply import kept_masks
from graphprune.rewriting.widths import Widths
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.stepper import Stepper

_OUTPUTS = 4096  # at a time


@final
class Joint:
    """The unpruned and the cut model, run side by side over all batches."""

    def __init__(self, dense: Graph, cut: Graph, batches: Sequence[Batch], stream: bool) -> None:
        analysis = analyze_axes(dense)
        self.widths = Widths(analysis.inference, kept_masks(analysis, cut.lineage.plan))
        self.places = {node.name: node for node in dense.nodes}
        self.sums = stream_sums(cut) if stream else {}
        calls = find_linear_calls(cut)
        self.before = {call.node.name: call for call in find_linear_calls(dense, shared=True)}
        kept = {self.sums[c.node].name if c.node in self.sums else self.before[c.node.name].x.name for c in calls}
        self.dense = Stepper(dense, [graph_inputs(dense, batch) for batch in batches], frozenset(kept))
        self.cut = Stepper(cut, [graph_inputs(cut, batch) for batch in batches])
        self.lengths = [text_length(batch) for batch in batches]
        self.solved: dict[str, Tensor] = {}
        self.readings: dict[fx.Node, Reading] = {}
        # Biases that one call alone adds are solved too.
        self.free = {b for b, count in Counter(c.bias for c in calls).items() if b in cut.parameters() and count == 1}

    def solve(self, call: LinearCall, damping: float, last: bool) -> None:
        """Solve the weights, and the bias, of a call, and go on with the new ones; `last` of those with its input."""
        self.cut.advance(call.node, through=False)
        if call.x not in self.readings:
            self.readings[call.x] = read(self.cut.value(call.x), self.lengths, call.weight)
        seen, centred = self.readings[call.x], call.bias in self.free
        weight, offset = call.matrix(self.cut.tensors[call.weight]), list[Tensor]()
        new = torch.empty_like(weight)
        for rows, moment, mean in self.targets(call, seen):
            old = weight[rows].double()
            rest, shift = moment - seen.gram @ old.T, mean - old @ seen.mean
            rest = rest - torch.outer(seen.mean, shift) if centred else rest
            change = seen.solve(rest, damping, centred).T
            new[rows] = (old + change).to(new.dtype)
            offset.append(shift - change @ seen.mean)
        self.put(call.weight, call.matrix(new))
        if centred and call.bias is not None:
            self.put(call.bias, self.cut.tensors[call.bias].double() + torch.cat(offset))
        if last:
            del self.readings[call.x]

    def put(self, name: str, value: Tensor) -> None:
        """Use a new value for a parameter, in its own type, from here on."""
        new = value.to(self.cut.tensors[name].dtype).contiguous()
        self.solved[name] = new
        self.cut.replace(name, new)

    def targets(self, call: LinearCall, seen: Reading) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """What the call should give, without its bias, some outputs at a time: which, E[x yᵀ] and E[y]."""
        add = self.sums.get(call.node)
        bias = self.cut.tensors[call.bias].double() if call.bias else None
        found = self.own_targets(call, seen) if add is None else self.sum_targets(call, seen, add)
        for rows, moment, mean in found:
            shift = torch.zeros_like(mean) if bias is None else bias[rows]
            yield rows, moment - torch.outer(seen.mean, shift), mean - shift

    def own_targets(self, call: LinearCall, seen: Reading) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """What the call gives in the unpruned model, from what it reads there: no output is ever made."""
        old = self.before[call.node.name]
        self.dense.advance(old.node, through=False)
        cross, mean = seen.cross(self.dense.value(old.x))
        weight = old.matrix(self.dense.tensors[old.weight])
        kept = torch.nonzero(self.kept(old.node).to(weight.device)).flatten()
        bias = self.dense.tensors[old.bias].double() if old.bias else weight.new_zeros(len(weight)).double()
        for start in range(0, len(kept), _OUTPUTS):
            part = kept[start : start + _OUTPUTS]
            rows = weight[part].double()
            moment = cross @ rows.T + torch.outer(seen.mean, bias[part])
            yield slice(start, start + len(part)), moment, rows @ mean + bias[part]

    def sum_targets(self, call: LinearCall, seen: Reading, add: fx.Node) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """What makes the sum that the call's branch goes into what it is in the unpruned model."""
        place = self.places[add.name]
        self.dense.advance(place)
        kept = self.kept(place)
        skip = next(n for n in add.all_input_nodes if not reads(n, call.node))
        wanted = [
            flat(value)[:, kept.to(value.device)] - flat(other)
            for value, other in zip(self.dense.value(place), self.cut.value(skip), strict=True)
        ]
        self.dense.forget(place)
        moment, mean = seen.cross(wanted)
        yield slice(0, len(mean)), moment, mean

    def kept(self, node: fx.Node) -> Tensor:
        """Which entries of a value's last dimension are kept."""
        return torch.from_numpy(self.widths.mask(self.widths.inference.axes[node][-1]))


def stream_sums(graph: Graph) -> dict[fx.Node, fx.Node]:
    """For each call that ends a residual branch, possibly reshaped, the addition of two operands that it goes into."""
    nodes = {node.name: node for node in graph.nodes}
    found = {}
    for branch in find_branches(graph):
        add = nodes[branch.add]
        if {n.name for n in add.all_input_nodes} == {branch.skip, branch.branch}:
            found[origin(nodes[branch.branch])] = add
    return found


def origin(node: fx.Node) -> fx.Node:
    """The node behind reshapes that only this branch reads."""
    while getattr(node.target, "_opname", "") in SAME_VALUES and len(node.all_input_nodes[0].users) == 1:
        node = node.all_input_nodes[0]
    return node


def reads(node: fx.Node, call: fx.Node) -> bool:
    return node is call or origin(node) is call
