"""Which calls of a graph are a linear layer or an embedding of the model, so that what replaces modules finds them.

This file stands alone, as modeling_graphprune.py does. A module's call takes the place of the operator that reads its
weights: peft, bitsandbytes, torchao and `resize_token_embeddings` change the module, and the graph goes on as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from .program_graphprune import Program, Value, references

ATEN = torch.ops.aten
# Where the weight stands in the arguments, where the bias, and where what is multiplied.
PLACES = {ATEN.linear.default: (1, 2, 0), ATEN.addmm.default: (2, 0, 1), ATEN.embedding.default: (0, None, 1)}
# What a value passes through on its way from the input to an embedding, or from a head to the logits, row by row.
ROWS = {"reshape", "view", "clone", "_to_copy", "alias", "unsqueeze", "squeeze", "expand", "slice", "contiguous"}
EACH = {*ROWS, "mul", "div", "tanh", "add", "neg"}


class Call:
    """The module of this name, called in place of an operator and its weights."""

    def __init__(self, scope: str) -> None:
        self.scope = scope


def find_calls(program: Program, tensors: Mapping[str, Sequence[Any]]) -> dict[int, str]:
    """The nodes that a module can stand for, with its name; `tensors` describes each by element type, shape, trained.

    A module holds `weight`, and `bias` where there is one, and no other parameter under its name; where something
    else reads them the operator stays, but for the weights of an embedding, which a tied head reads as well.
    """
    found: dict[int, str] = {}
    held: dict[str, set[str]] = {}
    for name in tensors:
        held.setdefault(scope_of(name), set()).add(name)
    for index, (function, args, kwargs) in enumerate(program.nodes):
        names = None if kwargs or isinstance(function, str) else weights_of(program, function, args)
        if names and fits(names, tensors, function) and extras(held[scope_of(names[0])], tensors) <= {*names}:
            found[index] = scope_of(names[0])
    looked_up = {scope for index, scope in found.items() if is_lookup(program, index)}
    found = {i: scope for i, scope in found.items() if is_lookup(program, i) or scope not in looked_up}
    return {i: scope for i, scope in found.items() if scope in looked_up or is_alone(program, scope, found)}


def is_lookup(program: Program, index: int) -> bool:
    return program.nodes[index][0] is ATEN.embedding.default


def extras(names: set[str], tensors: Mapping[str, Sequence[Any]]) -> set[str]:
    """What a module would have to hold as its own; buffers can stand beside, such as the scale of an embedding."""
    return {name for name in names if tensors[name][2] or name.rpartition(".")[2] in ("weight", "bias")}


def scope_of(name: str) -> str:
    return name.rpartition(".")[0]


def weights_of(program: Program, function: Any, args: Sequence[Any]) -> tuple[str, ...] | None:
    """The names of weight and bias that a call reads, where they are tensors of the model called so."""
    if function not in PLACES:
        return None
    weight, bias, _ = PLACES[function]
    names = [tensor_name(program, args[weight])]
    if bias is not None and bias < len(args) and args[bias] is not None:
        names.append(tensor_name(program, args[bias]))
    right = all(name.rpartition(".")[2] == leaf for name, leaf in zip(names, ("weight", "bias"), strict=False))
    together = len({scope_of(name) for name in names}) == 1 and scope_of(names[0]) != ""
    whole = function is not ATEN.addmm.default or len(names) == 2
    return tuple(names) if right and together and whole else None


def tensor_name(program: Program, argument: Any) -> str:
    """The tensor of the model that an argument is; empty where it is something else."""
    if isinstance(argument, Value) and program.nodes[argument.index][0] == "tensor":
        return str(program.nodes[argument.index][1])
    return ""


def fits(names: Sequence[str], tensors: Mapping[str, Sequence[Any]], function: Any) -> bool:
    """Say whether these tensors are trained, of one floating type, and of the shapes that a module gives them."""
    types = {tensors[name][0] for name in names}
    shapes = [list(tensors[name][1]) for name in names]
    width = shapes[0][1 if function is ATEN.addmm.default else 0] if len(shapes[0]) == 2 else None
    floating = all(getattr(torch, str(type_)).is_floating_point for type_ in types)
    return floating and len(types) == 1 and all(tensors[n][2] for n in names) and width is not None and (
        shapes[1:] in ([], [[width]])
    )  # fmt: skip


def is_alone(program: Program, scope: str, found: Mapping[int, str]) -> bool:
    """Say whether one kind of module can stand for all that reads these weights."""
    own = [index for index, name in found.items() if name == scope]
    kinds = {program.nodes[index][0] for index in own}
    biased = {len(program.nodes[index][1]) for index in own}
    others = (index for index in readers(program, scope) if found.get(index) != scope)
    return len(kinds) == len(biased) == 1 and next(others, None) is None


def readers(program: Program, scope: str) -> Iterator[int]:
    """The nodes that read a tensor of this scope; -1 where one is returned."""
    nodes = program.nodes
    own = {i for i, (kind, name, _) in enumerate(nodes) if kind == "tensor" and scope_of(str(name)) == scope}
    for index, (function, args, kwargs) in enumerate(nodes):
        if not isinstance(function, str) and own & {*references(args), *references(kwargs)}:
            yield index
    yield from (-1 for index in program.returned if index in own)


def make_module(function: Any, args: Sequence[Any], shape: Sequence[int], bias: bool, dtype: Any) -> nn.Module:
    """A module of the shapes that a call reads, in the given element type, or in the present default for None."""
    if function is ATEN.linear.default:
        return nn.Linear(shape[1], shape[0], bias=bias, dtype=dtype)
    if function is ATEN.addmm.default:
        module = Conv1D(shape[1], shape[0])
        return module if dtype is None else module.to(dtype)
    padding = args[2] if len(args) > 2 and isinstance(args[2], int) and args[2] >= 0 else None
    return nn.Embedding(shape[0], shape[1], padding_idx=padding, dtype=dtype)


def place_calls(program: Program, calls: Mapping[int, str]) -> None:
    """Let the modules be called: each node reads what goes into the module alone."""
    for index, scope in calls.items():
        function, args, _ = program.nodes[index]
        program.nodes[index] = (Call(scope), [args[PLACES[function][2]]], {})
    program.count_uses()


def input_embedding(program: Program) -> str | None:
    """The module that looks up the token ids; None where there is none."""
    for function, args, _ in program.nodes:
        if isinstance(function, Call) and source_of(program, args[0], ROWS) == ("input", "input_ids"):
            return function.scope
    return None


def output_layer(program: Program) -> str | None:
    """The module whose output is the logits, as they are or scaled; None where there is none."""
    if "logits" not in program.outputs:
        return None
    last = Value(program.returned[program.outputs.index("logits")])
    kind, scope = source_of(program, last, EACH)
    return scope if kind == "call" else None


def source_of(program: Program, argument: Any, through: set[str]) -> tuple[str, str]:
    """What a value comes from, by way of its first arguments: an input, a tensor, or the call of a module."""
    while isinstance(argument, Value):
        function, args, _ = program.nodes[argument.index]
        if isinstance(function, str):
            return function, str(args)
        if isinstance(function, Call):
            return "call", function.scope
        name = getattr(function, "_schema", None)
        if name is None or name.name.partition("::")[2] not in through:
            break
        argument = args[0]
    return "", ""
