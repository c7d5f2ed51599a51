"""Verification: the rules that every graph keeps, checked by propagating shapes anew."""

from collections.abc import Hashable, Mapping, Sequence

import sympy
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from graphprune.errors import InvariantError, first_line, foreign
from graphprune.ir.graph import Graph, get_tensor
from graphprune.ir.operators import arguments_of, function_of
from graphprune.ir.sizes import concrete
from graphprune.ir.types import NodeValue, TensorType
from graphprune.weights.patterns import check_zeros, is_pattern

_WRONG = "does not run on the shapes it gets"
_OPS = ("placeholder", "get_attr", "call_function", "output")
# Two settings of the symbols: ordinary sizes, and single sequences without a past.
_SETTINGS: tuple[Mapping[str, int], ...] = ({"batch": 2, "sequence": 3, "past": 5, "images": 4}, {"past": 0})


def verify(graph: Graph) -> None:
    """Check a graph; raises InvariantError naming the node and the rule it breaks.

    Only known node kinds, no mutation, signature and tensors in place, and every value's shape and type equal to what a
    fresh propagation on fake tensors gives - for ordinary sizes and for the empty past. Shapes are propagated once for
    a graph whose nodes and types are as they were. Weights are zero where their patterns say so.
    """
    check_structure(graph)
    if any(is_pattern(kind) for kind in graph.companions):
        check_zeros(graph.tensors(), graph.companions)
    if graph.derive(checked_types) != types_of(graph):
        checked_types(graph)


def types_of(graph: Graph) -> tuple[int, ...]:
    """What tells the types of all nodes from others: they are values, and a changed one is another object."""
    return tuple(id(node.meta.get("value")) for node in graph.module.graph.nodes)


def checked_types(graph: Graph) -> tuple[int, ...]:
    for setting in _SETTINGS:
        check_shapes(graph, {**dict.fromkeys(symbols(graph), 4), **setting})
    return types_of(graph)


def check_structure(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op not in _OPS:
            raise InvariantError(f"{node.name}: a node of kind {node.op} is not part of the IR")
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
            raise InvariantError(f"{node.name}: {target} changes its operand; graphs are functional")
        if node.op == "get_attr" and tuple(get_tensor(graph.module, str(target)).shape) != node.meta["value"].shape:
            shape = list(get_tensor(graph.module, str(target)).shape)
            raise InvariantError(f"{node.name}: {target} has shape {shape}, its node says {node.meta['value']}")
    taken = graph.module.graph.find_nodes(op="placeholder")
    if len(graph.inputs) != len(taken) or len(graph.outputs) != len(graph.returned):
        raise InvariantError("the inputs or outputs do not match the contract's names")


def symbols(graph: Graph) -> set[str]:
    sizes = [s for n in graph.placeholders.values() for s in n.meta["value"].shape if isinstance(s, sympy.Expr)]
    return {str(symbol) for size in sizes for symbol in size.free_symbols}


def check_shapes(graph: Graph, setting: Mapping[str, int]) -> None:
    """Run the graph on fake tensors of these sizes and compare every value with what its node says.

    Blocks repeat each other, so what was computed is kept: a call on the values of an earlier one gives what that gave.
    """
    values: dict[fx.Node, object] = {}
    made: dict[Hashable, object] = {}
    with FakeTensorMode(), torch.no_grad():
        for node in graph.nodes:
            if node.op == "placeholder":
                kind = node.meta["value"]
                values[node] = shared(torch.empty(concrete(kind.shape, setting), dtype=kind.dtype), made)
            elif node.op == "get_attr":
                tensor = get_tensor(graph.module, str(node.target))
                values[node] = shared(torch.empty(tensor.shape, dtype=tensor.dtype), made)
            elif node.op == "call_function":
                values[node] = run_node(node, values, made)
                compare(node, node.meta.get("value"), values[node], setting)


def run_node(node: fx.Node, values: Mapping[fx.Node, object], made: dict[Hashable, object]) -> object:
    """What a call gives: computed once for the same function of the same arguments."""
    args, kwargs = arguments_of(node, values)
    if "device" in kwargs:
        kwargs["device"] = "cpu"
    key = (node.target, identity(args), identity(kwargs))
    if key not in made:
        with foreign(lambda error: InvariantError(f"{node.name}: {node.target} {_WRONG}: {first_line(error)}")):
            made[key] = shared(function_of(node)(*args, **kwargs), made)
    return made[key]


def shared(value: object, made: dict[Hashable, object]) -> object:
    """One fake tensor for all that nothing but their values would tell apart, of which they have none."""
    if type(value) is not FakeTensor or value.constant is not None or value.layout != torch.strided:
        return value
    memory = value.stride(), value.storage_offset(), value.untyped_storage().nbytes()
    return made.setdefault((value.dtype, value.device, value.shape, *memory, value.is_conj(), value.is_neg()), value)


def identity(value: object) -> Hashable:
    """What tells arguments apart: type and value of what is plain, of others which object they are; all stay."""
    if isinstance(value, (list, tuple)):
        return (type(value), *map(identity, value))
    if isinstance(value, dict):
        return tuple((name, identity(entry)) for name, entry in value.items())
    if isinstance(value, slice):
        return (slice, identity(value.start), identity(value.stop), identity(value.step))
    return (type(value), value) if isinstance(value, (bool, int, float, str)) else id(value)


def compare(node: fx.Node, expected: NodeValue, value: object, setting: Mapping[str, int]) -> None:
    if isinstance(expected, tuple):
        assert isinstance(value, Sequence)
        for part, entry in zip(expected, value, strict=True):
            compare(node, part, entry, setting)
    elif isinstance(expected, TensorType) and isinstance(value, Tensor):
        shape = concrete(expected.shape, setting)
        if tuple(value.shape) != shape or value.dtype != expected.dtype:
            found = TensorType(value.dtype, tuple(value.shape))
            raise InvariantError(f"{node.name}: {node.target} gives {found}, its node says {expected} {dict(setting)}")
