"""Obstacles: calls that do not treat the units of an axis as the coordinates of a vector.

Where there is none, a change of basis of the axis, in every parameter that carries it, leaves the function as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import fx

from graphprune.analysis.analyse import analyze_axes
from graphprune.axes.algebra import Axis
from graphprune.axes.inference import Axes, Inference
from graphprune.ir.graph import Graph
from graphprune.ir.operators import bind, call_name, operator_name

# What a call does with an axis: carries it on, scales or sums what has it, writes into it, reads it to the end, takes
# its length, which no rotation changes, or norms it with the mean taken away.
Role = Literal["carry", "scale", "write", "read", "length", "layer_norm"]
ROTATED: frozenset[Role] = frozenset({"carry", "scale", "write", "read", "length"})
FOLDED: frozenset[Role] = frozenset({"carry", "scale", "read"})
SHIFTED: frozenset[Role] = frozenset({"carry", "read"})
CENTRED: frozenset[Role] = frozenset({"carry", "scale", "write", "layer_norm"})


@dataclass(frozen=True, eq=False)
class Along:
    """One atomic axis of a graph: which nodes have it as a whole dimension."""

    inference: Inference
    axis: Axis

    def held(self, node: fx.Node) -> list[Axes]:
        """The axes of every tensor that a node holds."""
        return [self.inference.axes.get(node, ()), *self.inference.outputs.get(node, ())]

    def has(self, node: object) -> bool:
        """Whether a dimension of what the node holds is this axis, and nothing else."""
        find = self.inference.algebra.find
        return isinstance(node, fx.Node) and any(find(a) == self.axis for axes in self.held(node) for a in axes)

    def mixes(self, node: fx.Node) -> bool:
        """Whether a dimension holds this axis together with others."""
        algebra = self.inference.algebra
        rest = (a for axes in self.held(node) for a in axes if algebra.find(a) != self.axis)
        return any(self.axis in algebra.atoms(axis) for axis in rest)


def find_obstacle(
    graph: Graph, along: Along, allowed: frozenset[Role], aside: Sequence[fx.Node] = (), start: fx.Node | None = None
) -> str | None:
    """The first node that does something else with the axis than what is allowed, in words; None without one.

    Nodes that are `aside` are not looked at; those from `start` on come first.
    """
    held = graph.derive(find_holders).get(along.axis, ())
    touched = {*held, *(user for node in held for user in node.users)}
    begin = graph.nodes.index(start) if start is not None else 0
    for node in (*graph.nodes[begin:], *graph.nodes[:begin]):
        if node in aside or node not in touched:
            continue
        if node.op in ("output", "placeholder"):
            return "it is a dimension of what goes in or comes out of the model"
        if along.mixes(node) or any(map(along.mixes, node.all_input_nodes)):
            return f"{node.name} holds it together with another axis"
        if node.op != "get_attr" and role_of(node, along) not in allowed:
            return describe(node, allowed)
    return None


def find_holders(graph: Graph) -> Mapping[Axis, Sequence[fx.Node]]:
    """The nodes that hold each atomic axis, alone or together with others."""
    inference = analyze_axes(graph).inference
    found: dict[Axis, dict[fx.Node, None]] = {}
    for node in graph.nodes:
        for axes in (inference.axes.get(node, ()), *inference.outputs.get(node, ())):
            for atom in (atom for axis in axes for atom in inference.algebra.atoms(axis)):
                found.setdefault(atom, {})[node] = None
    return {atom: tuple(nodes) for atom, nodes in found.items()}


def describe(node: fx.Node, allowed: frozenset[Role]) -> str:
    """What is wrong with a call."""
    if call_name(node) == "embedding":
        return f"{node.name} looks it up as well; untie it first"
    what = "treats its units one by one" if allowed is ROTATED else "does something else with it"
    return f"{node.name} ({operator_name(node)}) {what}"


def role_of(node: fx.Node, along: Along) -> Role | None:
    """What a call does with an axis; None for what is none of these."""
    name = call_name(node)
    for names, role in _ROLES.items():
        if name in names:
            return role(node, along)
    return None


def carries(node: fx.Node, along: Along) -> Role | None:
    return "carry" if along.has(node) else None


def converts(node: fx.Node, along: Along) -> Role | None:
    """Only the element type is taken of the second operand."""
    return "carry"


def joins(node: fx.Node, along: Along) -> Role | None:
    """Vectors one after the other; parameters among them, such as a class token, are written."""
    if not along.has(node):
        return None
    return "write" if any(map(is_constant, node.all_input_nodes)) else "carry"


def adds(node: fx.Node, along: Along) -> Role | None:
    """A sum of vectors; what is added of parameters alone is written."""
    terms = node.args[:2]
    if not all(map(along.has, terms)):
        return None
    return "write" if any(isinstance(term, fx.Node) and is_constant(term) for term in terms) else "scale"


def multiplies(node: fx.Node, along: Along) -> Role | None:
    """A vector times, or over, a number of its own; or times itself, where the length is taken of that."""
    first, second = node.args[:2]
    if along.has(first) and along.has(second):
        return "length" if first is second and is_summed(node, along) else None
    return "scale" if along.has(first) or (along.has(second) and call_name(node) == "mul") else None


def squares(node: fx.Node, along: Along) -> Role | None:
    return "length" if node.args[1] == 2 and is_summed(node, along) else None


def reduces(node: fx.Node, along: Along) -> Role | None:
    """A sum over another dimension; or of squares over this one."""
    if along.has(node):
        return "scale"
    operand = node.args[0]
    return "length" if isinstance(operand, fx.Node) and role_of(operand, along) == "length" else None


def is_summed(node: fx.Node, along: Along) -> bool:
    """Whether all that reads a node sums over the axis."""
    return all(call_name(user) in _SUMS and not along.has(user) for user in node.users)


def contracts(node: fx.Node, along: Along) -> Role | None:
    """A product that sums over the axis, or has it of one operand alone."""
    arguments = bind(node)
    if arguments.get("groups", 1) != 1:
        return None
    bias = arguments.get("bias") if call_name(node) not in _ADDED else arguments.get("self")
    operands = sum(along.has(each) for each in node.all_input_nodes if each is not bias)
    if along.has(node):
        return "write" if operands == 1 else None
    return "read" if operands == 2 else None


def looks_up(node: fx.Node, along: Along) -> Role | None:
    return "write" if along.has(node) else None


def norms(node: fx.Node, along: Along) -> Role | None:
    arguments = bind(node)
    if len(arguments["normalized_shape"]) != 1:
        return None
    if call_name(node) == "layer_norm":
        return "layer_norm"
    return "length" if arguments["weight"] is None else None


def is_constant(node: fx.Node) -> bool:
    """Whether a node is made of parameters and numbers alone."""
    pending, seen = [node], set[fx.Node]()
    while pending:
        each = pending.pop()
        if each.op == "get_attr" or each in seen:
            continue
        if each.op != "call_function" or not each.all_input_nodes:
            return False
        seen.add(each)
        pending += each.all_input_nodes
    return True


_ADDED = frozenset({"addmm", "baddbmm"})
_SUMS = frozenset({"mean", "sum"})
# fmt: off
_MOVES = frozenset({
    "view", "_unsafe_view", "reshape", "reshape_as", "view_as", "flatten", "expand", "expand_as", "unsqueeze",
    "squeeze", "transpose", "permute", "t", "slice", "select", "split_with_sizes", "unbind", "repeat",
    "repeat_interleave", "index", "index_select", "_to_copy", "clone", "alias",
    "contiguous", "detach", "getitem",
})
_PRODUCTS = frozenset({
    "linear", "addmm", "mm", "matmul", "bmm", "baddbmm", "conv1d", "conv2d", "conv3d", "convolution",
})
# fmt: on
_ROLES: Mapping[frozenset[str], Callable[[fx.Node, Along], Role | None]] = {
    _MOVES: carries,
    _PRODUCTS: contracts,
    frozenset({"cat", "concat", "stack"}): joins,
    _SUMS: reduces,
    frozenset({"type_as"}): converts,
    frozenset({"add", "sub"}): adds,
    frozenset({"mul", "div"}): multiplies,
    frozenset({"neg"}): lambda node, along: "scale",
    frozenset({"pow"}): squares,
    frozenset({"embedding"}): looks_up,
    frozenset({"layer_norm", "rms_norm"}): norms,
}
