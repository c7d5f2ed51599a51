"""The joint run: the unpruned and the cut model side by side, and each linear call of the cut one solved on the way."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor, fx

from graphprune.analysis.analyse import analyze_axes
from graphprune.analysis.branches import find_branches
from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.errors import DataError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import SAME_VALUES
from graphprune.rewriting.apply import kept_masks
from graphprune.rewriting.widths import Widths
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.stepper import Stepper


@final
class Joint:
    """The unpruned and the cut model, run side by side over all batches."""

    def __init__(self, dense: Graph, cut: Graph, batches: Sequence[Batch], stream: bool) -> None:
        analysis = analyze_axes(dense)
        self.widths = Widths(analysis.inference, kept_masks(analysis, cut.lineage.plan))
        self.places = {node.name: node for node in dense.nodes}
        self.sums = stream_sums(cut) if stream else {}
        calls = find_linear_calls(cut)
        wanted = {self.sums[c.node].name if c.node in self.sums else c.node.name for c in calls}
        self.dense = Stepper(dense, [graph_inputs(dense, batch) for batch in batches], frozenset(wanted))
        self.cut = Stepper(cut, [graph_inputs(cut, batch) for batch in batches])
        self.solved: dict[str, Tensor] = {}
        # Biases that one call alone adds are solved too.
        self.free = {b for b, count in Counter(c.bias for c in calls).items() if b in cut.parameters() and count == 1}

    def solve(self, calls: Sequence[LinearCall], damping: float) -> None:
        """Solve the weights, and biases, of calls that read the same value, and go on with the new ones."""
        self.cut.advance(calls[0].node, through=False)
        inputs = [flat(value) for value in self.cut.value(calls[0].x)]
        tokens = sum(map(len, inputs))
        gram, mean = sum_products(inputs, inputs) / tokens, sum_rows(inputs) / tokens
        ridge = damping * float(gram.diagonal().mean())
        factors: dict[bool, Tensor] = {}
        for call in calls:
            centred = call.bias in self.free
            if centred not in factors:
                seen = gram - torch.outer(mean, mean) if centred else gram
                factors[centred] = factorise(seen, ridge, call.weight)
            weight = call.matrix(self.cut.tensors[call.weight]).double()
            rest = [t - x @ weight.T for x, t in zip(inputs, self.targets(call), strict=True)]
            moment, offset = sum_products(inputs, rest) / tokens, sum_rows(rest) / tokens
            if centred:
                moment = moment - torch.outer(mean, offset)
            change = torch.cholesky_solve(moment, factors[centred]).T
            self.put(call.weight, call.matrix(weight + change))
            if centred and call.bias is not None:
                self.put(call.bias, self.cut.tensors[call.bias].double() + offset - change @ mean)

    def put(self, name: str, value: Tensor) -> None:
        """Use a new value for a parameter, in its own type, from here on."""
        new = value.to(self.cut.tensors[name].dtype).contiguous()
        self.solved[name] = new
        self.cut.replace(name, new)

    def targets(self, call: LinearCall) -> Iterator[Tensor]:
        """What the call should give in every batch, without its bias: float64 [tokens, kept outputs]."""
        add = self.sums.get(call.node)
        place = self.places[(add or call.node).name]
        self.dense.advance(place)
        kept = torch.from_numpy(self.widths.mask(self.widths.inference.axes[place][-1]))
        values = [flat(value)[:, kept.to(value.device)] for value in self.dense.value(place)]
        self.dense.forget(place)
        bias = self.cut.tensors[call.bias].double() if call.bias else 0.0
        if add is None:
            return (value - bias for value in values)
        skip = next(n for n in add.all_input_nodes if not reads(n, call.node))
        return (value - flat(other) - bias for value, other in zip(values, self.cut.value(skip), strict=True))


def flat(value: Tensor) -> Tensor:
    """Rows of the last dimension, in float64."""
    return value.flatten(0, -2).double()


def sum_products(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    total = torch.zeros(left[0].shape[1], right[0].shape[1], dtype=torch.float64, device=left[0].device)
    for a, b in zip(left, right, strict=True):
        total += a.T @ b
    return total


def sum_rows(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value.sum(0) for value in values]).sum(0)


def factorise(gram: Tensor, ridge: float, name: str) -> Tensor:
    """The Cholesky factor of the damped Gram matrix; more damping where that is not enough."""
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    if not bool(torch.isfinite(gram).all()):
        raise DataError(f"the activations before {name} are not finite; check the weights and the calibration data")
    tiny = 1e-8 * max(float(gram.diagonal().mean()), 1e-30)
    for extra in (0.0, tiny, 1e3 * tiny, 1e6 * tiny):
        factor, failed = torch.linalg.cholesky_ex(gram + (ridge + extra) * identity)
        if not bool(failed):
            return torch.as_tensor(factor)
    raise DataError(f"the activations before {name} are all alike; give more calibration text")


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
