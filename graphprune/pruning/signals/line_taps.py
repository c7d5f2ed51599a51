"""Taps: sums of w g over rows and columns for every sample, read off the activations, without any weight's gradient.

Where y = x W^T, the sum of w g over row j is the sum of y_j dy_j over the tokens, and that over column k is the sum of
x_k dx_k, dx being what this call alone gives x. Both are known for every sample of a batch, and add up over the uses
of a weight.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.autograd.function import BackwardCFunction
from torch.fx.node import Argument

from graphprune.analysis.linear_calls import read_call
from graphprune.ir.graph import Graph
from graphprune.ir.operators import bind, operator_key
from graphprune.ir.sizes import symbol
from graphprune.ir.types import TensorType
from graphprune.pruning.signals.unit_sums import Key, Layout, widen

_aten = torch.ops.aten

# The gate of each dimension, for each node of a parameter that has any.
Gates = Mapping[fx.Node, Mapping[int, fx.Node]]


class _Kept(BackwardCFunction):
    """What a tap keeps for backward."""

    rows: int


class _Tap(torch.autograd.Function):
    """x as it is; backward gives `gate` [rows, n] the sum of x dx over all but the samples and the last dimension."""

    @staticmethod
    def forward(ctx: _Kept, x: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rows = len(gate)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: _Kept, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (x,), (dx,) = ctx.saved_tensors, gradients
        return dx, (widen(x) * widen(dx)).reshape(ctx.rows, -1, x.shape[-1]).sum(1)


def tap(x: Tensor, gate: Tensor) -> Tensor:
    """The identity, whose gate collects x dx for each sample and index of the last dimension."""
    tapped: Tensor = _Tap.apply(x, gate)  # type: ignore[no-untyped-call]
    return tapped


def tap_bias(bias: Tensor, like: Tensor, gate: Tensor) -> Tensor:
    """The bias, repeated for every token of `like` so that samples are told apart."""
    return tap(bias.expand(like.shape), gate)


def tap_tokens(x: Tensor, indices: Tensor, padding: int, gate: Tensor) -> Tensor:
    """The embeddings x of token indices, with a tap on all but the padding token's."""
    return torch.where((indices == padding).unsqueeze(-1), x, tap(x, gate))


@dataclass(frozen=True, eq=False)
class Tapped:
    """A graph with a gate for every line of a layout; `gates` are the names under which it reads them."""

    graph: Graph
    gates: Mapping[str, Key]

    def open(self, rows: int) -> tuple[Graph, dict[str, Tensor]]:
        """The graph for batches of this many rows, and its gates [rows, n]: the only leaves that take gradients."""
        old = self.graph.tensors()
        gates = {name: old[name].new_zeros(rows, old[name].shape[1]).requires_grad_() for name in self.gates}
        return self.graph.with_tensors(gates), gates


def attach_taps(graph: Graph, layout: Layout) -> Tapped | None:
    """Put a tap on every line of the layout, or return None where some use of its parameters has no such form.

    It gives what one sample at a time gives where the rows of a batch do not depend on each other.
    """
    if layout.slots:
        return None  # a mask inside a matrix is not seen from outside
    own = {n: torch.nn.Parameter(p.detach(), requires_grad=False) for n, p in graph.parameters().items()}
    fork = graph.with_tensors(own)
    names = {f"tap_{index}": key for index, key in enumerate(layout.shares)}
    gates = add_gates(fork, names)
    for call in dict.fromkeys(user for node in gates for user in node.users):
        rule = _RULES.get(operator_key(call))
        if rule is None or not rule(call, {node: gates[node] for node in call.all_input_nodes if node in gates}):
            return None
    fork.module.recompile()
    return Tapped(fork, names)


def add_gates(graph: Graph, names: Mapping[str, Key]) -> dict[fx.Node, dict[int, fx.Node]]:
    """Read a gate for each of these lines at the start of the graph, in place."""
    nodes, parameters, tensors = graph.module.graph, graph.parameters(), graph.tensors()
    readers = nodes.find_nodes(op="get_attr")
    gates: dict[fx.Node, dict[int, fx.Node]] = {}
    for gate, key in names.items():
        parameter = parameters[key.parameter]
        graph.module.register_buffer(gate, widen(parameter.new_zeros(1, parameter.shape[key.dim])))
        with nodes.inserting_before(next(node for node in nodes.nodes if node.op != "placeholder")):
            opened = nodes.get_attr(gate)
        for reader in readers:
            if tensors[str(reader.target)] is parameter:
                gates.setdefault(reader, {})[key.dim] = opened
    return gates


def tap_linear(call: fx.Node, gates: Gates) -> bool:
    """Columns at the input, rows at the product, and the bias on its own."""
    linear = read_call(call)
    if linear is None or not by_sample(linear.x):
        return False
    found = {str(node.target): dims for node, dims in gates.items()}
    weight, bias = found.get(linear.weight, {}), found.get(linear.bias or "", {})
    rows, columns = (1, 0) if linear.transposed else (0, 1)
    if columns in weight:
        with call.graph.inserting_before(call):
            tapped = call.graph.call_function(tap, (linear.x, weight[columns]))
        tapped.meta = dict(linear.x.meta)
        call.replace_input_with(linear.x, tapped)
    if linear.bias is not None and (bias or rows in weight):
        split_bias(call, weight.get(rows), bias.get(0))
    elif rows in weight:
        follow(call, tap, call, weight[rows])
    return True


def split_bias(call: fx.Node, rows: fx.Node | None, shift: fx.Node | None) -> None:
    """Make the product and the addition of the bias two calls, each with a tap where it has a gate."""
    arguments = bind(call)
    if operator_key(call) == "aten.addmm":
        bias, product = arguments["self"], (_aten.mm.default, (arguments["mat1"], arguments["mat2"]))
    else:
        bias, product = arguments["bias"], (_aten.linear.default, (arguments["input"], arguments["weight"]))
    with call.graph.inserting_before(call):
        value = call.graph.call_function(*product)
        first = value if rows is None else call.graph.call_function(tap, (value, rows))
        second = bias if shift is None else call.graph.call_function(tap_bias, (bias, value, shift))
        total = call.graph.call_function(_aten.add.Tensor, (first, second))
    total.meta = dict(call.meta)
    call.replace_all_uses_with(total)
    call.graph.erase_node(call)


def tap_embedding(call: fx.Node, gates: Gates) -> bool:
    """Columns at the output, but for the padding token, which learns nothing. Rows, the vocabulary, have no tap."""
    arguments = bind(call)
    dims = gates.get(arguments["weight"], {})
    if set(dims) != {1} or arguments["scale_grad_by_freq"] or not by_sample(call):
        return False
    return follow(call, tap_tokens, call, arguments["indices"], arguments["padding_idx"], dims[1])


def tap_product(call: fx.Node, gates: Gates) -> bool:
    """A vector times activations, entry by entry along the last dimension: the product tells all."""
    (node, dims), *more = gates.items()
    if more or not along_last(call, node) or call.args.count(node) != 1 or not by_sample(call):
        return False
    return follow(call, tap, call, dims[0])


def tap_norm(call: fx.Node, gates: Gates) -> bool:
    """The scale of a norm without a shift of its own is a product."""
    arguments = bind(call)
    return arguments.get("bias") is None and arguments["weight"] in gates and tap_product(call, gates)


def follow(call: fx.Node, target: Callable[..., Tensor], *args: Argument) -> bool:
    """Put a call right behind this one, in its place for all who read it."""
    with call.graph.inserting_after(call):
        new = call.graph.call_function(target, args)
    new.meta = dict(call.meta)
    call.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    return True


def along_last(call: fx.Node, vector: fx.Node) -> bool:
    """Say whether a vector runs along the last dimension of a call's output, repeated along all others."""
    own, out = vector.meta["value"].shape, call.meta["value"].shape
    return len(own) == 1 and len(out) > 1 and out[-1] == own[0]


def by_sample(node: fx.Node) -> bool:
    """Say whether the rows of a batch are told apart: they come first, or were first before a reshape in order."""
    value = node.meta.get("value")
    if not isinstance(value, TensorType) or len(value.shape) < 2:
        return False
    if value.shape[0] == symbol("batch"):
        return True
    origin = node.args[0] if operator_key(node) == "aten.reshape" else None
    if not isinstance(origin, fx.Node) or not isinstance(origin.meta.get("value"), TensorType):
        return False
    before = origin.meta["value"].shape
    return len(before) > 1 and before[0] == symbol("batch") and before[-1] == value.shape[-1]


_RULES: Mapping[str, Callable[[fx.Node, Gates], bool]] = {
    **dict.fromkeys(("aten.linear", "aten.addmm", "aten.mm", "aten.matmul"), tap_linear),
    **dict.fromkeys(("aten.rms_norm", "aten.layer_norm"), tap_norm),
    "aten.embedding": tap_embedding,
    "aten.mul": tap_product,
}
