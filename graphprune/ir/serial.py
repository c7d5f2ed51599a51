"""A graph as JSON data and back: nodes, types and tensor descriptions; the tensors themselves travel as safetensors."""

import ast
import math
import operator
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypedDict

import sympy
import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from graphprune.errors import ExportError, SourceError
from graphprune.ir.graph import KINDS, Graph, Source
from graphprune.ir.operators import stored_name
from graphprune.ir.recurrence import RECURRENCE
from graphprune.ir.sizes import symbol
from graphprune.ir.types import NodeValue, Size, TensorType, tensor_type
from graphprune.json_data import Json
from graphprune.weights.stored import is_held_in

FORMAT = 1
_PART = 1 << 20  # elements that are looked at at a time
_ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}
_FUNCTIONS = {"Max": sympy.Max, "Min": sympy.Min, "Mod": sympy.Mod, "floor": sympy.floor}


class GraphData(TypedDict):
    """A graph as JSON data; `to_data` says what each part holds."""

    format: int
    kind: str
    dtype: str
    inputs: list[list[Json]]
    outputs: list[list[Json]]
    tensors: dict[str, list[Json]]
    nodes: list[list[Json]]
    types: list[Json]
    scopes: list[str | None]


def to_data(graph: Graph) -> GraphData:
    """The graph as JSON data. Raises ExportError naming a node that has no JSON form.

    `nodes` are `["input", name]`, `["tensor", name]` or `[operator, args, kwargs]`; `outputs` pairs names with node
    indices; `types` and `scopes` run parallel to `nodes`; `tensors` maps a name to element type, shape and whether
    it is trained.
    A tied tensor stands under the first of its names.
    """
    names = first_names(graph.tensors())
    tensors = {name: tensor for name, tensor in graph.tensors().items() if names[name] == name}
    require_plain((*tensors, *graph.placeholders, *graph.results))
    body = [node for node in graph.nodes if node.op != "output"]
    index = {node: i for i, node in enumerate(body)}
    contract = {node: name for name, node in graph.placeholders.items()}
    return {
        "format": FORMAT,
        "kind": graph.source.kind,
        "dtype": type_name(main_dtype(graph)),
        "inputs": [[name, *encode_tensor(tensor_type(node))] for name, node in graph.placeholders.items()],
        "outputs": [[name, index[node]] for name, node in graph.results.items()],
        "tensors": {name: describe_tensor(tensor) for name, tensor in tensors.items()},
        "nodes": [encode_node(node, index, contract, names) for node in body],
        "types": [encode_type(node.meta.get("value")) for node in body],
        "scopes": [node.meta.get("scope") for node in body],
    }


def require_plain(names: Iterable[str]) -> None:
    """Raise ExportError where readers would refuse a name."""
    from graphprune.generic.program_graphprune import is_name

    wrong = next((name for name in names if not is_name(name)), None)
    if wrong is not None:
        raise ExportError(f"{wrong!r} is no name that a checkpoint can hold; rename it with letters, digits, _ and -")


def describe_tensor(tensor: Tensor) -> list[Json]:
    return [type_name(tensor.dtype), list(tensor.shape), isinstance(tensor, torch.nn.Parameter)]


def first_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Each tensor name with the first name of the same tensor."""
    firsts: dict[int, str] = {}
    return {name: firsts.setdefault(id(tensor), name) for name, tensor in tensors.items()}


def stored_tensors(graph: Graph) -> dict[str, Tensor]:
    """Every parameter and buffer once, by its first name, detached and contiguous."""
    names = first_names(graph.tensors())
    return {n: t.detach().contiguous() for n, t in graph.tensors().items() if names[n] == n}


def narrowest_dtype(graph: Graph) -> torch.dtype:
    """The type to store parameters in: the source's own where it holds every one of them exactly, else the graph's."""
    stored, main = graph.source.dtype, main_dtype(graph)
    if stored is None or stored.itemsize >= main.itemsize:
        return main
    floats = [t.detach() for t in graph.parameters().values() if t.dtype == main and not is_held_in(t, stored)]
    return stored if all(is_exact_in(t, stored) for t in floats) else main


def is_exact_in(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Say whether a narrower type holds every value, some rows at a time."""
    rows = max(1, _PART * len(tensor) // max(1, tensor.numel())) if tensor.dim() else 1
    parts = torch.split(tensor, rows) if tensor.dim() else (tensor,)
    return all(bool((part.to(dtype).to(part.dtype) == part).all()) for part in parts)


def main_dtype(graph: Graph) -> torch.dtype:
    """The floating type that most of the parameters have."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in graph.parameters().values():
        if tensor.is_floating_point():
            sizes[tensor.dtype] += tensor.numel()
    return sizes.most_common(1)[0][0] if sizes else torch.float32


def type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def encode_node(
    node: fx.Node, index: Mapping[fx.Node, int], contract: Mapping[fx.Node, str], names: Mapping[str, str]
) -> list[Json]:
    if node.op == "placeholder":
        return ["input", contract[node]]
    if node.op == "get_attr":
        return ["tensor", names[str(node.target)]]
    args = encode_argument(node, node.args, index)
    require_readable(node, stored_name(node))
    return [stored_name(node), args, {key: encode_argument(node, value, index) for key, value in node.kwargs.items()}]


def require_readable(node: fx.Node, name: str) -> None:
    """Raise ExportError where readers would refuse this operator."""
    from graphprune.generic.program_graphprune import resolve

    try:
        resolve(name)
    except ValueError as error:
        raise ExportError(
            f"{node.name}: the operator {name} is not on the list of those that a checkpoint may hold"
        ) from error


def encode_argument(node: fx.Node, argument: Argument, index: Mapping[fx.Node, int]) -> Json:
    if isinstance(argument, fx.Node):
        return {"node": index[argument]}
    if isinstance(argument, (list, tuple)):
        return [encode_argument(node, item, index) for item in argument]
    if isinstance(argument, float) and not math.isfinite(argument):
        return {"float": str(argument)}
    if argument is None or isinstance(argument, (bool, int, float, str)):
        return argument
    for kind, cls in (("dtype", torch.dtype), ("layout", torch.layout), ("memory_format", torch.memory_format)):
        if isinstance(argument, cls):
            return {kind: str(argument).removeprefix("torch.")}
    if isinstance(argument, torch.device):
        return {"device": argument.type}
    raise ExportError(f"{node.name}: the argument {argument!r} has no form that a checkpoint can hold")


def encode_type(value: NodeValue) -> Json:
    """`[element type, shape]` for a tensor, `{"size": text}`, `{"tuple": [...]}`, or None."""
    if isinstance(value, TensorType):
        return encode_tensor(value)
    if isinstance(value, (tuple, list)):
        return {"tuple": [encode_type(item) for item in value]}
    return None if value is None else {"size": str(value)}


def encode_tensor(type_: TensorType) -> list[Json]:
    return [type_name(type_.dtype), [s if isinstance(s, int) else str(s) for s in type_.shape]]


def from_data(data: GraphData, tensors: Mapping[str, Tensor], source: Source | None = None) -> Graph:
    """Rebuild the graph that `to_data` described, on the given tensors. Raises SourceError where data is damaged."""
    from graphprune.generic.program_graphprune import check_names

    try:
        check_names(data)
        if data["kind"] not in KINDS:
            raise ValueError(f"{str(data['kind'])[:80]!r} is no kind of source")
        return build_graph(data, tensors, source or Source(data["kind"]))
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        SyntaxError,
        RecursionError,
        MemoryError,
    ) as error:
        raise SourceError(f"the graph in this checkpoint is damaged: {error}") from error


def build_graph(data: GraphData, tensors: Mapping[str, Tensor], source: Source) -> Graph:
    nodes = fx.Graph()
    built: list[fx.Node] = []
    for item, described, scope in zip(data["nodes"], data["types"], data["scopes"], strict=True):
        node = build_node(nodes, item, built)
        node.meta["value"] = decode_type(described)
        if scope is not None:
            node.meta["scope"] = scope
        built.append(node)
    outputs = [read_output(item) for item in data["outputs"]]
    nodes.output(tuple(built[index] for _, index in outputs))
    attached = {
        name: torch.nn.Parameter(tensors[name], tensors[name].is_floating_point()) if trained else tensors[name]
        for name, (_, _, trained) in data["tensors"].items()
    }
    module = fx.GraphModule(attached, nodes)
    module.eval()
    return Graph(module, tuple(str(n) for n, *_ in data["inputs"]), tuple(name for name, _ in outputs), source)


def read_output(item: list[Json]) -> tuple[str, int]:
    match item:
        case [str(name), int(index)]:
            return name, index
    raise ValueError(f"{item} is not an output")


def build_node(nodes: fx.Graph, item: list[Json], built: list[fx.Node]) -> fx.Node:
    from graphprune.generic.program_graphprune import check_call, resolve

    match item:
        case ["input", str(name)]:
            return nodes.placeholder(re.sub(r"\W", "_", name))
        case ["tensor", str(name)]:
            return nodes.get_attr(name)
        case [str(name), list(arguments), dict(options)]:
            target = RECURRENCE if name == str(RECURRENCE) else resolve(name)
            check_call(name, target, arguments, options)
            kwargs = {key: decode_argument(value, built) for key, value in options.items()}
            return nodes.call_function(target, tuple(decode_argument(a, built) for a in arguments), kwargs)
    raise ValueError(f"{item} is not a node")


def decode_argument(argument: Json, built: list[fx.Node]) -> Argument:
    from graphprune.generic.program_graphprune import Device, Value, decode

    if isinstance(argument, list):
        return [decode_argument(item, built) for item in argument]
    value: Argument | Device | Value = decode(argument)
    if isinstance(value, Device):
        return torch.device("cpu")
    return built[value.index] if isinstance(value, Value) else value


def decode_type(described: Json) -> NodeValue:
    from graphprune.generic.program_graphprune import element_type

    match described:
        case None:
            return None
        case [str(dtype), list(shape)]:
            return TensorType(element_type(dtype), tuple(parse_size(size) for size in shape))
        case {"tuple": list(parts)}:
            return tuple(decode_type(part) for part in parts)
        case {"size": size}:
            return sympy.sympify(parse_size(size))
    raise ValueError(f"{described} is not a type")


def parse_size(text: Json) -> Size:
    """A size from its text; read as arithmetic on names only, since the text may come from an untrusted file."""
    return text if isinstance(text, int) else evaluate(ast.parse(str(text), mode="eval").body)


def evaluate(tree: ast.expr) -> sympy.Expr:
    match tree:
        case ast.Constant(value=int(value)):
            return sympy.Integer(value)
        case ast.Name(id=name):
            return symbol(name)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](evaluate(left), evaluate(right))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -evaluate(operand)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*map(evaluate, args))
    raise ValueError(f"{ast.unparse(tree)} is not a size")
