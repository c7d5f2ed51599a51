"""Reconstruct: the unpruned and the cut model run side by side, and a solver gives linear calls new weights."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, final

import torch
from torch import Tensor, fx

from graphprune.analysis.analyse import analyze_axes
from graphprune.analysis.branches import find_branches
from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.ir.graph import Graph
from graphprune.ir.operators import SAME_VALUES
from graphprune.pruning.activations.moments import Moments, read
from graphprune.pruning.signals.token_weights import text_length
from graphprune.rewriting.apply import kept_masks
from graphprune.rewriting.widths import Widths
from graphprune.running.inputs import Batch, graph_inputs
from graphprune.running.stepper import Stepper
from graphprune.weights.patterns import kept_entries

_OUTPUTS = 4096  # at a time


@dataclass(frozen=True, eq=False)
class Target:
    """What some outputs, `rows`, of a call should give without its bias, from what it reads: E[x yᵀ] and E[y].

    `kept` [outputs, inputs] says which of their weights may be other than zero, where not all may.
    """

    rows: slice
    moment: Tensor
    mean: Tensor
    kept: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Solution:
    """The new weight [outputs, inputs] of a call, and what is added to its bias, if anything."""

    weight: Tensor
    shift: Tensor | None = None


class Solver(Protocol):
    """Gives a call a new weight: from what it reads, its weight so far [outputs, inputs], and what it should give.

    Targets are made as they are asked for, some outputs at a time. `centred` says that the call has a bias of its own,
    which a solution may shift. `work` is the type in which the products of a batch are summed.
    """

    @property
    def work(self) -> torch.dtype: ...

    def __call__(self, seen: Moments, weight: Tensor, targets: Iterator[Target], centred: bool, /) -> Solution: ...


class Solutions(Protocol):
    """Where solutions are kept by the names of weights, for a run that goes on after it was killed."""

    def read(self, name: str) -> Solution | None: ...

    def write(self, name: str, solution: Solution) -> None: ...


def reconstruct(
    dense: Graph,
    cut: Graph,
    calls: Sequence[LinearCall],
    solver: Solver,
    batches: Sequence[Batch],
    *,
    target: Literal["stream", "output"] = "stream",
    sequential: bool = True,
    restart: frozenset[str] = frozenset(),
    progress: Callable[[int, int], None] = lambda *_: None,
    solutions: Solutions | None = None,
) -> Graph:
    """The cut graph with these of its calls solved, in the order of the graph, whatever order they are given in.

    `target=stream` wants of a call that ends a residual branch what makes the sum there as it is in the unpruned model;
    of others, and with `output`, what the call itself gives there. With `sequential` a call reads what those solved
    before it give, else what the cut graph gave as it was. At the nodes of `restart` the cut model goes on with the
    values of the unpruned one, so that errors from before do not count. What `solutions` has is not solved again.
    Weights with a pattern keep their zeros: their targets say which. Memory is that of the values alive at one place.
    """
    place = {node: index for index, node in enumerate(cut.nodes)}
    ordered = sorted(calls, key=lambda call: place[call.node])
    if not ordered:
        return cut
    with torch.no_grad():
        joint = Joint(dense, cut, ordered, batches, target == "stream", sequential, restart)
        for done, call in enumerate(ordered):
            progress(done, len(ordered))
            joint.solve(call, solver, solutions)
    progress(len(ordered), len(ordered))
    return cut.with_tensors({name: torch.nn.Parameter(weight) for name, weight in joint.solved.items()})


@final
class Joint:
    """The unpruned and the cut model, run side by side over all batches, for these calls."""

    def __init__(
        self,
        dense: Graph,
        cut: Graph,
        calls: Sequence[LinearCall],
        batches: Sequence[Batch],
        stream: bool,
        sequential: bool,
        restart: frozenset[str],
    ) -> None:
        analysis = analyze_axes(dense)
        self.widths = Widths(analysis.inference, kept_masks(analysis, cut.lineage.plan))
        self.places = {node.name: node for node in dense.nodes}
        self.sums = stream_sums(cut) if stream else {}
        self.before = {call.node.name: call for call in find_linear_calls(dense, shared=True)}
        end = latest(cut, [call.node for call in calls])
        before = cut.nodes[: cut.nodes.index(end)]
        self.restart = [node for node in before if node.name in restart]
        # How often each value of the unpruned model is still to be read.
        self.wanted = Counter(self.wants(call).name for call in calls) + Counter(node.name for node in self.restart)
        self.readers = Counter(call.x for call in calls)
        # Up to what is needed last: keys and values of every layer, which are outputs, would else be held for the end.
        ends = [latest(dense, [self.wants(c) for c in calls] + [self.before[c.node.name].node for c in calls])]
        ends.append(latest(cut, [self.sums.get(call.node, call.node) for call in calls]))
        rows = [[graph_inputs(graph, batch) for batch in batches] for graph in (dense, cut)]
        self.dense = Stepper(dense, rows[0], frozenset(self.wanted), ends[0])
        self.cut = Stepper(cut, rows[1], last=ends[1])
        self.lengths = [text_length(batch) for batch in batches]
        self.sequential = sequential
        self.patterns = kept_entries(cut.companions)
        self.solved: dict[str, Tensor] = {}
        self.readings: dict[fx.Node, Moments] = {}
        self.crosses: dict[tuple[fx.Node, fx.Node], tuple[Tensor, Tensor]] = {}
        # Biases that one call alone adds are solved too.
        counts = Counter(call.bias for call in find_linear_calls(cut))
        self.free = {bias for bias, count in counts.items() if bias in cut.parameters() and count == 1}

    def wants(self, call: LinearCall) -> fx.Node:
        """The value of the unpruned model that says what the call should give."""
        add = self.sums.get(call.node)
        return self.before[call.node.name].x if add is None else self.places[add.name]

    def solve(self, call: LinearCall, solver: Solver, solutions: Solutions | None) -> None:
        """Give a call the weight, and the bias, that is known or that the solver finds, and go on with them."""
        self.start_again(call)
        known = solutions.read(call.weight) if solutions is not None else None
        found = known or self.find(call, solver)
        if solutions is not None and known is None:
            solutions.write(call.weight, found)
        self.done(self.wants(call))
        self.put(call.weight, call.matrix(found.weight))
        if call.bias is not None and found.shift is not None:
            bias = self.cut.tensors[call.bias].double()
            self.put(call.bias, bias + found.shift.to(bias.device))
        self.readers[call.x] -= 1
        if not self.readers[call.x]:
            self.readings.pop(call.x, None)
            self.crosses = {pair: found for pair, found in self.crosses.items() if pair[0] is not call.x}

    def find(self, call: LinearCall, solver: Solver) -> Solution:
        """What the solver gives a call, from what it reads and should give."""
        self.cut.advance(call.node, through=False)
        weight = call.matrix(self.cut.tensors[call.weight])
        # What is missing from a sum may be huge at a token that the call reads nothing unusual of.
        errors = self.errors(call, weight) if call.node in self.sums else ()
        if errors or call.x not in self.readings:
            self.crosses.pop((call.x, self.before[call.node.name].x), None)
            self.readings[call.x] = read(self.cut.value(call.x), self.lengths, call.weight, solver.work, errors)
        seen = self.readings[call.x]
        return solver(seen, weight, self.targets(call, seen), call.bias in self.free)

    def start_again(self, call: LinearCall) -> None:
        """Go on with the unpruned model's values at the nodes before this call where that is wanted."""
        while self.restart and self.cut.position[self.restart[0]] < self.cut.position[call.node]:
            node = self.restart.pop(0)
            place = self.places[node.name]
            self.cut.advance(node)
            self.dense.advance(place)
            kept = self.kept(place)
            self.cut.put(node, [value[..., kept.to(value.device)] for value in self.dense.value(place)])
            self.done(place)

    def done(self, node: fx.Node) -> None:
        """Free a value of the unpruned model once all that it was kept for is done."""
        self.wanted[node.name] -= 1
        if not self.wanted[node.name]:
            self.dense.forget(node)

    def put(self, name: str, value: Tensor) -> None:
        """Use a new value for a parameter, in its own type, in the result and, if sequential, from here on."""
        old = self.cut.tensors[name]
        new = value.to(old.device, old.dtype).contiguous()  # what was kept comes from a file
        self.solved[name] = new
        if self.sequential:
            self.cut.replace(name, new)

    def targets(self, call: LinearCall, seen: Moments) -> Iterator[Target]:
        """What the call should give, without its bias, some outputs at a time."""
        add = self.sums.get(call.node)
        bias = self.cut.tensors[call.bias].double() if call.bias else None
        found = self.own_targets(call, seen) if add is None else self.sum_targets(call, seen, add)
        kept = self.patterns.get(call.weight)
        for one in found:
            if kept is not None:
                one = replace(one, kept=call.matrix(kept)[one.rows].to(one.moment.device))
            if bias is None:
                yield one
            else:
                shift = bias[one.rows]
                yield replace(one, moment=one.moment - torch.outer(seen.mean, shift), mean=one.mean - shift)

    def own_targets(self, call: LinearCall, seen: Moments) -> Iterator[Target]:
        """What the call gives in the unpruned model, from what it reads there: no output is ever made."""
        old = self.before[call.node.name]
        self.dense.advance(old.node, through=False)
        weight = old.matrix(self.dense.tensors[old.weight])
        cross, mean = self.cross(call, old, seen)
        kept = torch.nonzero(self.kept(old.node).to(weight.device)).flatten()
        bias = self.dense.tensors[old.bias].double() if old.bias else weight.new_zeros(len(weight)).double()
        for start in range(0, len(kept), _OUTPUTS):
            part = kept[start : start + _OUTPUTS]
            rows = weight[part].double()
            moment = cross @ rows.T + torch.outer(seen.mean, bias[part])
            yield Target(slice(start, start + len(part)), moment, rows @ mean + bias[part])

    def cross(self, call: LinearCall, old: LinearCall, seen: Moments) -> tuple[Tensor, Tensor]:
        """E[x yᵀ] and E[y] of what the call reads and read: once for calls that share both, as q, k and v do."""
        if (call.x, old.x) not in self.crosses:
            wide = old.matrix(self.dense.tensors[old.weight]).shape[1]
            self.crosses[call.x, old.x] = seen.cross(self.dense.value(old.x), wide)
        return self.crosses[call.x, old.x]

    def sum_targets(self, call: LinearCall, seen: Moments, add: fx.Node) -> Iterator[Target]:
        """What makes the sum that the call's branch goes into what it is in the unpruned model."""
        moment, mean = seen.cross(self.missing(call, add, seen.work), int(self.kept(self.places[add.name]).sum()))
        yield Target(slice(0, len(mean)), moment, mean)

    def missing(self, call: LinearCall, add: fx.Node, work: torch.dtype) -> Iterator[Tensor]:
        """What the sum lacks before the call's branch is added, of each batch: [tokens, outputs]."""
        place = self.places[add.name]
        self.dense.advance(place)
        kept = self.kept(place)
        skip = next(n for n in add.all_input_nodes if not reads(n, call.node))
        for value, other in zip(self.dense.value(place), self.cut.value(skip), strict=True):
            yield value.flatten(0, -2)[:, kept.to(value.device)].to(work) - other.flatten(0, -2).to(work)

    def errors(self, call: LinearCall, weight: Tensor) -> tuple[Tensor, ...]:
        """What the sum would lack with the call as it is, of each batch: float32 [tokens, outputs]."""
        bias = self.cut.tensors[call.bias].float() if call.bias else 0.0
        lacking = zip(self.missing(call, self.sums[call.node], torch.float32), self.cut.value(call.x), strict=True)
        return tuple(missing - (x.flatten(0, -2).float() @ weight.float().T + bias) for missing, x in lacking)

    def kept(self, node: fx.Node) -> Tensor:
        """Which entries of a value's last dimension are kept."""
        return torch.from_numpy(self.widths.mask(self.widths.inference.axes[node][-1]))


def latest(graph: Graph, nodes: Sequence[fx.Node]) -> fx.Node:
    """The one of these nodes that runs last."""
    place = {node: index for index, node in enumerate(graph.nodes)}
    return max(nodes, key=lambda node: place[node])


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
