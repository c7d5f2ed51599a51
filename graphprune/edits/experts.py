"""Experts: a dense MLP becomes equal experts behind a router, in the stacked form that mixtures are captured in.

Whatever the router chooses, the shares of the chosen experts sum to one, and equal experts give what the MLP gave.
Source: CPM-2, arXiv 2106.10715; sparse upcycling, arXiv 2212.05055.
"""

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Annotated, ClassVar, final

import torch
from annotated_types import Ge
from torch import Tensor, fx
from torch.fx.node import Argument

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.analysis.groups import Group
from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.axes.rules.elementwise import RULES as ELEMENTWISE
from graphprune.bounds import Count, require_limits
from graphprune.edits.tensors import read_new, require_free, with_all
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import bind, call_name, function_of, operator_key, operator_name, rebind, remove_dead
from graphprune.ir.types import NodeValue, Size, TensorType, tensor_type

_aten = torch.ops.aten
_GAIN = 0.1  # of the rows of a new router, which are orthogonal: CPM-2's module
_VIEWS = frozenset({"view", "reshape", "_unsafe_view"})
_PARTS = frozenset({"split_with_sizes", "split", "chunk", "slice", "getitem"})  # of channels that are kept together


@final
@dataclass(frozen=True)
class Experts:
    """The options of the edit: how many experts, how many of them each token is given, and the seed of the routers."""

    name: ClassVar[str] = "experts"
    count: Annotated[int, Ge(2)]
    top: Count
    seed: int

    def __post_init__(self) -> None:
        require_limits(self, self.name)
        if self.top > self.count:
            raise ValueError(f"top={self.top} is more than the {self.count} experts")


@dataclass(frozen=True)
class Mlp:
    """A dense MLP: the calls that write its channels, of one `x`, what is between, in order, and the call that reads
    them. `scope` is the module around all of its weights."""

    group: str
    scope: str
    x: fx.Node
    writers: tuple[LinearCall, ...]
    between: tuple[fx.Node, ...]
    reader: LinearCall


def with_experts(graph: Graph, ids: Sequence[str], options: Experts) -> Graph:
    """Return the graph in which the MLPs of these groups are equal experts, of which each token is given the best.

    New tensors lie in the MLP's own module: `gate.weight` [experts, width], and stacks such as `experts.down_proj`
    [experts, outputs, inputs]. Raises PlanError for a group that is not the channels of one MLP.
    """
    mlps = [find_mlp(graph, id) for id in ids]
    fork, tensors = graph.fork(), dict(graph.tensors())
    nodes = {node.name: node for node in fork.nodes}
    for mlp in mlps:
        made = Stacked(fork.module.graph, nodes, mlp.reader.node.name)
        width, old = tensor_type(mlp.x).shape[-1], tensors[mlp.reader.weight]
        assert isinstance(width, int)
        router = torch.nn.Parameter(draw_router(mlp.group, width, options).to(old), old.requires_grad)
        new = {f"{mlp.scope}gate.weight": router, **stacks(graph, mlp, options.count)}
        for name in new:
            require_free(tensors, name)
        tensors |= new
        made.replace(mlp, options, new)
    remove_dead(fork.module.graph)
    return with_all(fork, tensors)


def draw_router(id: str, width: int, options: Experts) -> Tensor:
    """The weight of a new router, [experts, width]: rows of one length that are orthogonal where there is room."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{options.seed} {id}".encode()))
    weight = torch.empty(options.count, width, dtype=torch.float64)
    torch.nn.init.orthogonal_(weight, _GAIN, generator)
    return weight


def stacks(graph: Graph, mlp: Mlp, count: int) -> dict[str, Tensor]:
    """The weights of the calls of an MLP, [experts, outputs, inputs], and their biases, by new names."""
    tensors, found = graph.tensors(), dict[str, Tensor]()
    for call in (*mlp.writers, mlp.reader):
        found[stack_name(mlp, call.weight)] = stacked(tensors[call.weight], count, call)
        if call.bias is not None:
            found[stack_name(mlp, call.weight, "_bias")] = stacked(tensors[call.bias], count)
    return found


def stacked(tensor: Tensor, count: int, call: LinearCall | None = None) -> Tensor:
    one = tensor.detach() if call is None else call.matrix(tensor.detach())
    return torch.nn.Parameter(one.expand(count, *one.shape).clone(), tensor.requires_grad)


def stack_name(mlp: Mlp, weight: str, end: str = "") -> str:
    """The name of a stack: `mlp.experts.down_proj` of `mlp.down_proj.weight`."""
    return f"{mlp.scope}experts.{weight.removeprefix(mlp.scope).removesuffix('.weight').replace('.', '_')}{end}"


def find_mlp(graph: Graph, id: str, refused: str = "no experts can be made of") -> Mlp:
    """The MLP whose channels a group is. Raises PlanError, which says what is `refused` and what stands in the way."""
    analysis = analyze_axes(graph)
    group = next((g for g in analysis.groups.groups if g.id == id), None)
    if group is None:
        raise PlanError(f"{id} is no group of this model, so that {refused} it")
    told = f"{refused} {id}"
    calls = find_linear_calls(graph)
    held = {(slot.name, slot.dim) for slot in group.slots}
    writers = tuple(c for c in calls if (c.weight, 1 if c.transposed else 0) in held)
    readers = tuple(c for c in calls if (c.weight, 0 if c.transposed else 1) in held)
    known = {c.weight for c in (*writers, *readers)} | {c.bias for c in writers if c.bias is not None}
    other = next((slot.name for slot in group.slots if slot.name not in known), None)
    if other is not None:
        raise PlanError(f"{told}: {other} is not a weight, or a bias, of one linear call")
    if not writers or len(readers) != 1 or len({call.x for call in writers}) != 1:
        raise PlanError(f"{told}: these are not channels that linear calls of one value write, and one call reads")
    if group.locked is not None:
        raise PlanError(f"{told}: it {group.locked}")
    require_own_biases(graph, (*writers, *readers), told)
    between = find_between(graph, analysis, group, writers, readers[0], told)
    return Mlp(id, scope_of([c.weight for c in (*writers, *readers)]), writers[0].x, writers, between, readers[0])


def require_own_biases(graph: Graph, calls: Sequence[LinearCall], told: str) -> None:
    """Raise PlanError where something else reads a bias as well."""
    tensors = graph.tensors()
    readers = Counter[int]()
    for node in graph.module.graph.find_nodes(op="get_attr"):
        readers[id(tensors[str(node.target)])] += len(node.users)
    shared = next((c.bias for c in calls if c.bias is not None and readers[id(tensors[c.bias])] > 1), None)
    if shared is not None:
        raise PlanError(f"{told}: {shared} is read by several calls")


def find_between(
    graph: Graph, analysis: Analysis, group: Group, writers: Sequence[LinearCall], reader: LinearCall, told: str
) -> tuple[fx.Node, ...]:
    """What is computed of the channels, one by one, in order. Raises PlanError for what is computed otherwise."""
    inside, ends = {call.node for call in writers}, {reader.node}
    between = []
    for node in graph.nodes:
        if node in inside or node in ends or not inside.intersection(node.all_input_nodes):
            continue
        if not is_by_channel(node, inside):
            raise PlanError(f"{told}: {node.name} ({operator_name(node)}) does not treat its channels one by one")
        inside.add(node)
        between.append(node)
    if not {reader.x} <= inside:
        raise PlanError(f"{told}: {reader.node.name} reads something else as well")
    return tuple(between)


def is_by_channel(node: fx.Node, inside: set[fx.Node]) -> bool:
    """Whether a call does the same to every channel, or takes channels apart, whatever dimensions come before."""
    if node.op != "call_function":
        return False
    if is_row_view(node):
        return True
    others = [each for each in node.all_input_nodes if each not in inside]
    if any(not isinstance(each.meta["value"], TensorType) or tensor_type(each).shape != () for each in others):
        return False
    if call_name(node) not in _PARTS:
        return operator_key(node) in ELEMENTWISE
    value = node.args[0].meta["value"]  # type: ignore[union-attr]
    if call_name(node) == "getitem":
        return isinstance(value, tuple)
    dim = bind(node)["dim"]
    return isinstance(value, TensorType) and dim % len(value.shape) == len(value.shape) - 1


def is_row_view(node: fx.Node) -> bool:
    """Whether rows of channels are only counted in other dimensions, which is the same where rows have one."""
    if call_name(node) not in _VIEWS:
        return False
    old, new = (each.meta["value"].shape for each in (node.args[0], node))  # type: ignore[union-attr]
    return len(old) > 1 and len(new) > 1 and bool(old[-1] == new[-1])


def scope_of(names: Sequence[str]) -> str:
    """The module that all of these tensors are in, with its dot; empty where that is the model itself."""
    paths = [name.split(".")[:-1] for name in names]
    if len(paths) == 1 or any(not path for path in paths):
        paths = [path[:-1] for path in paths]
    depth = 0
    while all(len(path) - 1 > depth for path in paths) and len({path[depth] for path in paths}) == 1:
        depth += 1
    return ".".join([*paths[0][:depth], ""])


@final
class Stacked:
    """Writes the calls of experts before the call that ends an MLP."""

    def __init__(self, graph: fx.Graph, nodes: Mapping[str, fx.Node], before: str) -> None:
        self.graph, self.nodes, self.before = graph, nodes, nodes[before]

    def call(self, target: object, args: tuple[Argument, ...], value: NodeValue) -> fx.Node:
        with self.graph.inserting_before(self.before):
            node = self.graph.call_function(target, args)  # type: ignore[arg-type]
        node.meta |= {"value": value, "scope": self.before.meta.get("scope", "")}
        return node

    def tensor(self, target: object, args: tuple[Argument, ...], like: fx.Node, shape: Sequence[Size]) -> fx.Node:
        """A call that gives a tensor of this shape, in the type of another."""
        return self.call(target, args, TensorType(tensor_type(like).dtype, tuple(shape)))

    def replace(self, mlp: Mlp, options: Experts, new: Mapping[str, Tensor]) -> None:
        """Put the experts in the place of the MLP."""
        x, top = self.nodes[mlp.x.name], options.top
        *lead, width = tensor_type(x).shape
        count = product(lead)
        rows = self.tensor(_aten.reshape.default, (x, [-1, width]), x, (count, width))
        shares, picks = self.route(rows, f"{mlp.scope}gate.weight", new, options)
        many = count * top
        taken = self.tensor(_aten.repeat_interleave.self_int, (rows, top, 0), x, (many, width))
        copies = {call.node: self.apply(mlp, call, taken, picks, new) for call in mlp.writers}
        for node in mlp.between:
            copies[node] = self.copy(node, copies, many)
        outputs = new[stack_name(mlp, mlp.reader.weight)].shape[1]
        made = self.apply(mlp, mlp.reader, copies[mlp.reader.x], picks, new)
        weight = self.tensor(_aten.unsqueeze.default, (shares, -1), made, (many, 1))
        weighed = self.tensor(_aten.mul.Tensor, (made, weight), made, (many, outputs))
        apart = self.tensor(_aten.reshape.default, (weighed, [-1, top, outputs]), made, (count, top, outputs))
        joined = self.tensor(_aten.sum.dim_IntList, (apart, [1]), made, (count, outputs))
        sizes = [size if isinstance(size, int) else self.size(x, dim) for dim, size in enumerate(lead)]
        result = self.tensor(_aten.reshape.default, (joined, [*sizes, outputs]), made, (*lead, outputs))
        self.before.replace_all_uses_with(result)

    def route(self, rows: fx.Node, name: str, new: Mapping[str, Tensor], options: Experts) -> tuple[fx.Node, fx.Node]:
        """The shares of the experts of every row, [rows x top], which sum to one for each row, and which they are."""
        count, top = tensor_type(rows).shape[0], options.top
        gate = read_new(self.graph, self.before, name, new[name])
        logits = self.tensor(_aten.linear.default, (rows, gate), rows, (count, options.count))
        likely = self.tensor(_aten.softmax.int, (logits, -1), rows, (count, options.count))
        kinds = TensorType(tensor_type(rows).dtype, (count, top)), TensorType(torch.int64, (count, top))
        best = self.call(_aten.topk.default, (likely, top), kinds)
        values, places = (self.call(getitem, (best, place), kind) for place, kind in enumerate(kinds))
        if top == 1:  # a number over itself is one, and its gradient nothing but rounding
            shares = self.tensor(_aten.ones_like.default, (values,), rows, (count, 1))
        else:
            whole = self.tensor(_aten.sum.dim_IntList, (values, [-1], True), rows, (count, 1))
            shares = self.tensor(_aten.div.Tensor, (values, whole), rows, (count, top))
        flat = self.tensor(_aten.reshape.default, (shares, [-1]), rows, (count * top,))
        return flat, self.tensor(_aten.reshape.default, (places, [-1]), places, (count * top,))

    def apply(self, mlp: Mlp, call: LinearCall, rows: fx.Node, picks: fx.Node, new: Mapping[str, Tensor]) -> fx.Node:
        """What the picked expert's copy of a linear call makes of every row."""
        name, many = stack_name(mlp, call.weight), tensor_type(picks).shape[0]
        _, outputs, inputs = new[name].shape
        stack = read_new(self.graph, self.before, name, new[name])
        weight = self.tensor(_aten.index.Tensor, (stack, [picks]), stack, (many, outputs, inputs))
        column = self.tensor(_aten.unsqueeze.default, (rows, -1), rows, (many, inputs, 1))
        column = self.tensor(_aten.bmm.default, (weight, column), rows, (many, outputs, 1))
        made = self.tensor(_aten.squeeze.dim, (column, 2), rows, (many, outputs))
        if call.bias is None:
            return made
        name = stack_name(mlp, call.weight, "_bias")
        bias = read_new(self.graph, self.before, name, new[name])
        added = self.tensor(_aten.index.Tensor, (bias, [picks]), bias, (many, outputs))
        return self.tensor(_aten.add.Tensor, (made, added), made, (many, outputs))

    def copy(self, node: fx.Node, copies: Mapping[fx.Node, fx.Node], many: Size) -> fx.Node:
        """A call between, for rows [many, channels]."""
        if is_row_view(node):
            return copies[node.args[0]]  # type: ignore[index]

        def known(each: fx.Node) -> fx.Node:
            return copies[each] if each in copies else self.nodes[each.name]

        args, kwargs = fx.node.map_arg(node.args, known), fx.node.map_arg(node.kwargs, known)
        made = self.call(function_of(node), args, flattened(node.meta["value"], many))
        made.kwargs = dict(kwargs)
        if call_name(node) in _PARTS - {"getitem"}:
            rebind(made, {"dim": -1})
        return made

    def size(self, x: fx.Node, dim: int) -> fx.Node:
        """A node that holds a size of a value: one that is there, or a new one."""
        wanted = tensor_type(x).shape[dim]
        for node in self.earlier():
            if node.op == "call_function" and node.meta.get("value") == wanted:
                return node
        return self.call(_aten.sym_size.int, (x, dim), wanted)

    def earlier(self) -> Iterator[fx.Node]:
        """The nodes that stand before the experts."""
        for node in self.graph.nodes:
            if node is self.before:
                return
            yield node


def flattened(value: NodeValue, many: Size) -> NodeValue:
    """The type of what has one dimension of rows in the place of all but the last."""
    if isinstance(value, tuple):
        return tuple(flattened(part, many) for part in value)
    return TensorType(value.dtype, (many, value.shape[-1])) if isinstance(value, TensorType) else value


def product(sizes: Sequence[Size]) -> Size:
    found: Size = 1
    for size in sizes:
        found = found * size
    return found
