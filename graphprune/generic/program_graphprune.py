"""Graphs as data, and the interpreter that runs them.

This file stands alone: graphprune writes it beside modeling_graphprune.py. A graph is data: its nodes name ATen
operators without side effects; no other part of Python or of the file system is reachable.
"""

import base64
import json
import math
import operator
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

FORMAT = 1
MAXIMUM_BYTES = 1 << 28
REFUSED = {"from_file", "set_", "resize_", "_local_scalar_dense"}
PYTHON: dict[str, tuple[Any, list[str]]] = {
    "operator": (operator, ["add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem"]),
    "math": (math, ["floor", "ceil", "trunc", "sqrt"]),
    "torch": (torch, ["sym_max", "sym_min", "sym_float", "sym_int", "sym_not"]),
}


def pack(graph: Any) -> str:
    """Compress a graph (JSON data) to one line of text for config.json."""
    return base64.b64encode(zlib.compress(json.dumps(graph, separators=(",", ":")).encode(), 9)).decode()


def unpack(text: str) -> dict[str, Any]:
    """Read what `pack` wrote. Raises ValueError where it is not a graph of this format."""
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), MAXIMUM_BYTES)
        graph = json.loads(data)
        version = graph["format"]
    except Exception as error:
        raise ValueError(f"config.json holds no readable graphprune graph: {error}; export it again") from error
    if version != FORMAT:
        raise ValueError(f"the graph has format {version}, this file reads format {FORMAT}; update graphprune")
    return graph  # type: ignore[no-any-return]


def resolve(name: str) -> Any:
    """The function of a node: an ATen overload without side effects, or a few Python functions on sizes."""
    space, _, rest = str(name).partition(".")
    if space == "aten" and rest.count(".") == 1:
        operator_name, overload = rest.split(".")
        packet = None if operator_name in REFUSED else getattr(torch.ops.aten, operator_name, None)
        function = getattr(packet, overload, None) if isinstance(packet, torch._ops.OpOverloadPacket) else None
        if isinstance(function, torch._ops.OpOverload) and not function._schema.is_mutable:
            return function
    if space in PYTHON and rest in PYTHON[space][1]:
        return getattr(PYTHON[space][0], rest)
    if name == "graphprune.linear_recurrence.default":
        return linear_recurrence
    raise ValueError(f"the operator {name!r} is not allowed in a graph; the checkpoint is damaged or not to be trusted")


class Value:
    """The result of an earlier node, as an argument."""

    def __init__(self, index: int) -> None:
        self.index = index


class Device:
    """The device of the model, whatever it was when the graph was captured."""


def decode(argument: Any) -> Any:
    """An argument from its JSON form."""
    if isinstance(argument, list):
        return [decode(item) for item in argument]
    if not isinstance(argument, dict):
        return argument
    ((kind, value),) = argument.items()
    if kind == "node":
        return Value(int(value))
    if kind == "device":
        return Device()
    if kind == "float":
        return float(value)
    known = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
    constant = getattr(torch, str(value), None)
    if kind not in known or not isinstance(constant, known[kind]):
        raise ValueError(f"the graph holds an unknown constant {argument!r}; the checkpoint is damaged")
    return constant


def references(argument: Any) -> list[int]:
    """The indices of the nodes that an argument reads."""
    if isinstance(argument, (list, dict)):
        return [i for item in (argument.values() if isinstance(argument, dict) else argument) for i in references(item)]
    return [argument.index] if isinstance(argument, Value) else []


class Program:
    """The nodes of a graph, ready to run; `retired[i]` are the values that nothing reads after node i."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        self.inputs = [name for name, *_ in graph["inputs"]]
        self.outputs = [name for name, _ in graph["outputs"]]
        self.returned = [int(index) for _, index in graph["outputs"]]
        self.nodes = [self.read(node) for node in graph["nodes"]]
        self.count_uses()

    def count_uses(self) -> None:
        """Note what nothing reads any more, and which tensors are read at all."""
        last: dict[int, int] = {}
        for index, (_, args, kwargs) in enumerate(self.nodes):
            for read in [*references(args), *references(kwargs)]:
                if not 0 <= read < index:
                    raise ValueError(f"node {index} of the graph reads node {read}; the checkpoint is damaged")
                last[read] = index
        self.retired: list[list[int]] = [[] for _ in self.nodes]
        for read, index in last.items():
            if read not in self.returned:
                self.retired[index].append(read)
        used = {*last, *self.returned}
        self.tensors = {str(name): i for i, (kind, name, _) in enumerate(self.nodes) if kind == "tensor" and i in used}

    def read(self, node: list[Any]) -> tuple[Any, Any, dict[str, Any]]:
        if node[0] in ("input", "tensor"):
            return node[0], str(node[1]), {}
        return resolve(node[0]), decode(node[1]), {key: decode(value) for key, value in node[2].items()}

    def run(
        self,
        inputs: Mapping[str, Tensor],
        tensors: Mapping[str, Tensor],
        device: torch.device,
        dtypes: Mapping[torch.dtype, torch.dtype],
        call: Callable[[Any], Any] = lambda function: function,
    ) -> list[Tensor]:
        """Run on inputs and tensors by name; `dtypes` replaces element types named in the graph.

        Tensors that no node reads may be missing. `call` gives what to call for the function of a node.
        """
        values: list[Any] = [None] * len(self.nodes)

        def get(argument: Any) -> Any:
            if isinstance(argument, Value):
                return values[argument.index]
            if isinstance(argument, list):
                return [get(item) for item in argument]
            if isinstance(argument, torch.dtype):
                return dtypes.get(argument, argument)
            return device if isinstance(argument, Device) else argument

        for index, (function, args, kwargs) in enumerate(self.nodes):
            if isinstance(function, str):
                values[index] = (inputs if function == "input" else tensors).get(args)
            else:
                values[index] = call(function)(*map(get, args), **{key: get(value) for key, value in kwargs.items()})
            for old in self.retired[index]:
                values[old] = None
        return [values[index] for index in self.returned]


def linear_recurrence(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, state: Tensor, beta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run `S = exp(decay) * S + key (x) update`, `output = query @ S` over the tokens; returns outputs and last state.

    `query` and `key` are [batch, heads, tokens, K], `value` and the outputs [batch, heads, tokens, V], `state` is
    [batch, heads, K, V]. `decay` is the logarithm of the factor, [batch, heads, tokens, K or 1, V or 1]. The update is
    `value`; with `beta` [batch, heads, tokens] it is the delta rule's `beta * (value - key @ S)`.
    """
    outputs = []
    factors = decay.exp()
    for token in range(query.shape[2]):
        state = state * factors[:, :, token]
        update = value[:, :, token, None]
        if beta is not None:
            update = (update - key[:, :, token, None] @ state) * beta[:, :, token, None, None]
        state = state + key[:, :, token, :, None] * update
        outputs.append(query[:, :, token, None] @ state)
    return (torch.cat(outputs, 2) if outputs else torch.zeros_like(value)), state
