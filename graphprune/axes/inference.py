"""Axis inference: every dimension of every tensor of a graph gets an axis, by one rule for each ATen operator."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import fx
from torch.fx.node import Argument

from graphprune.axes.algebra import Algebra, Axis
from graphprune.ir.graph import Graph
from graphprune.ir.operators import bind, index_origin, operator_key
from graphprune.ir.types import NodeValue, Size, TensorType, tensor_type

Axes = tuple[Axis, ...]
NodeAxes = Axes | tuple[Axes, ...]
Changes = Mapping[str, Argument]


class Resizer(Protocol):
    """What a rule may ask when the axes have new sizes: the new size, as an integer or as a node that computes it.

    `place` is the new number of an index along an axis, -1 where it is no more.
    """

    def size(self, axis: Axis) -> int: ...
    def place(self, axis: Axis, index: int) -> int: ...
    def argument(self, axis: Axis, old: Argument) -> Argument: ...
    def was(self, axis: Axis) -> Size: ...


@dataclass(frozen=True)
class Rule:
    """One operator: `infer` relates its axes and returns its output's; `resize` returns the arguments that changed.

    `resize(call, resizer)` maps an argument's name to its new value, for integers that follow an axis.
    """

    infer: Callable[["Call"], NodeAxes]
    resize: Callable[["Call", Resizer], Changes] = field(default=lambda call, sizes: {})


@dataclass(frozen=True)
class Reduction:
    """A call runs over a whole axis: what one entry holds counts for the others. `neutral` is what counts for nothing.

    `operand` is the tensor that is read, `dim` its dimension, counted from the front; `reason` says it in words.
    Without a `neutral` value absent entries do no harm as they are.
    """

    node: fx.Node
    operand: fx.Node
    dim: int
    axis: Axis
    neutral: float | None
    reason: str


@dataclass(frozen=True)
class Choice:
    """A call chooses entries of `axis`; its results have one entry for each of them along `slots`, None for one alone.

    `picks` says that the result points at what was chosen, and does not only hold its value.
    """

    node: fx.Node
    axis: Axis
    slots: Axis | None
    picks: bool


@dataclass(frozen=True, eq=False)
class Inference:
    """The result: the algebra, the axes of every node that holds a tensor, and what integer tensors index.

    A node that holds several tensors has its axes in `outputs`, tensor by tensor, and none in `axes`. Also every call
    that runs over a whole axis, and every call that chooses among the entries of one.
    """

    algebra: Algebra
    axes: dict[fx.Node, Axes]
    outputs: dict[fx.Node, tuple[Axes, ...]]
    indexed: dict[fx.Node, Axis]
    notes: dict[fx.Node, tuple[Axis, ...]]
    reductions: list[Reduction]
    choices: list[Choice]


class Call:
    """One operator call as a rule sees it: its arguments by name, and the axes of what they hold."""

    def __init__(self, node: fx.Node, state: "_State | Inference") -> None:
        self.node, self.state, self.algebra = node, state, state.algebra
        self.arguments = bind(node)

    def __getitem__(self, name: str) -> Any:
        """The argument with this name, or its default."""
        return self.arguments.get(name)

    @property
    def out(self) -> TensorType:
        return tensor_type(self.node)

    def axes(self, node: fx.Node) -> Axes:
        """The axes of a tensor operand, outermost first."""
        return self.state.axes[node]

    def shape(self, node: fx.Node) -> tuple[Size, ...]:
        return tensor_type(node).shape

    def tensors(self) -> list[fx.Node]:
        """The operands that hold one tensor each."""
        return [n for n in self.node.all_input_nodes if isinstance(n.meta.get("value"), TensorType)]

    def unify(self, left: Axis, right: Axis) -> Axis:
        """Relate two axes; where they do not fit, both are locked at this node."""
        if not self.algebra.unify(left, right):
            sizes = f"{self.algebra.size(left)} and {self.algebra.size(right)}"
            self.lock((left, right), f"axes of {sizes} do not fit together in {self.name}")
        return left

    def unify_all(self, left: Sequence[Axis], right: Sequence[Axis]) -> None:
        for a, b in zip(left, right, strict=True):
            self.unify(a, b)

    def lock(self, axes: Sequence[Axis], reason: str) -> None:
        for axis in axes:
            self.algebra.lock(axis, self.node.name, reason)

    def average(self, axis: Axis) -> None:
        self.algebra.average(axis)

    def reduce(self, operand: fx.Node, dims: Iterable[int], neutral: float | None, reason: str) -> None:
        """Note that this call runs over dimensions of an operand, of which those of static size are locked.

        Axes that are chosen from are not: there a removed entry counts for nothing where it is `neutral`.
        """
        axes = self.axes(operand)
        for dim in dims:
            if all(isinstance(self.algebra.size(a), int) for a in self.algebra.factors(axes[dim])):
                self.state.reductions.append(Reduction(self.node, operand, dim % len(axes), axes[dim], neutral, reason))

    def choose(self, axis: Axis, slots: Axis | None, picks: bool) -> None:
        """Note that this call chooses among the entries of an axis, and which axis counts what it chose."""
        if isinstance(self.algebra.size(axis), int):
            self.state.choices.append(Choice(self.node, axis, slots, picks))

    def fresh(self, shape: Sequence[Size]) -> Axes:
        return tuple(self.algebra.fresh(size) for size in shape)

    def locked(self, shape: Sequence[Size], reason: str) -> Axes:
        """New axes that may not shrink."""
        axes = self.fresh(shape)
        self.lock(axes, reason)
        return axes

    def index_of(self, node: fx.Node) -> Axis | None:
        """The axis that an integer tensor's values point into, where it is known."""
        return self.state.indexed.get(index_origin(node))

    def set_index(self, node: fx.Node, axis: Axis) -> None:
        """Note that the values of this integer tensor point into an axis."""
        self.state.indexed[index_origin(node)] = axis

    def point(self, index: fx.Node, axis: Axis) -> None:
        """Relate an indexed axis to the integer tensor that picks from it; values of unknown origin lock the axis."""
        known = self.index_of(index)
        if known is not None:
            self.unify(axis, known)
        elif index_origin(index).op == "placeholder":
            self.set_index(index, axis)
        else:
            self.lock((axis,), f"picked from by computed indices in {self.name}")

    def note(self, *axes: Axis) -> None:
        """Keep axes that `resize` will ask for."""
        self.state.notes[self.node] = axes

    def noted(self) -> tuple[Axis, ...]:
        return self.state.notes[self.node]

    @property
    def name(self) -> str:
        return operator_key(self.node)


class _State:
    """What one inference run builds up."""

    def __init__(self) -> None:
        self.algebra = Algebra()
        self.axes: dict[fx.Node, Axes] = {}
        self.outputs: dict[fx.Node, tuple[Axes, ...]] = {}
        self.indexed: dict[fx.Node, Axis] = {}
        self.notes: dict[fx.Node, tuple[Axis, ...]] = {}
        self.reductions: list[Reduction] = []
        self.choices: list[Choice] = []

    def keep(self, node: fx.Node, found: NodeAxes) -> None:
        """Keep what a rule found, apart for one tensor and for several."""
        outputs = tuple(axes for axes in found if isinstance(axes, tuple))
        if outputs:
            self.outputs[node] = outputs
        else:
            self.axes[node] = tuple(axis for axis in found if isinstance(axis, int))


def infer(graph: Graph, rules: Mapping[str, Rule]) -> Inference:
    """Give every tensor's dimensions their axes. Operators without a rule lock what they touch; never fails."""
    state = _State()
    for node in graph.nodes:
        value = node.meta.get("value")
        if node.op in ("placeholder", "get_attr"):
            state.axes[node] = tuple(state.algebra.fresh(size) for size in tensor_type(node).shape)
        elif node.op == "call_function" and not is_size(value):
            state.algebra.at = node.name
            call = Call(node, state)
            rule = rules.get(operator_key(node))
            state.keep(node, rule.infer(call) if rule else unknown(call))
    join_vocabulary(graph, state)
    return Inference(
        state.algebra, state.axes, state.outputs, state.indexed, state.notes, state.reductions, state.choices
    )


def join_vocabulary(graph: Graph, state: _State) -> None:
    """A language model reads the tokens that it writes: rows of its table and columns of its logits are one axis."""
    rows = state.indexed.get(graph.placeholders["input_ids"]) if "input_ids" in graph.inputs else None
    if graph.source.kind != "decoder" or "logits" not in graph.outputs or rows is None:
        return
    columns = state.axes[graph.results["logits"]][-1]
    if state.algebra.size(rows) == state.algebra.size(columns):
        state.algebra.at = graph.results["logits"].name
        state.algebra.unify(rows, columns)


def is_size(value: NodeValue) -> bool:
    return not isinstance(value, (TensorType, tuple))


def unknown(call: Call) -> NodeAxes:
    """Sound by default: an operator without a rule locks every axis that goes in or comes out."""
    reason = f"no axis rule for {call.name}"
    for node in call.tensors():
        call.lock(call.axes(node), reason)
    value = call.node.meta["value"]
    if isinstance(value, TensorType):
        return call.locked(value.shape, reason)
    return tuple(call.locked(v.shape, reason) if isinstance(v, TensorType) else () for v in value)
