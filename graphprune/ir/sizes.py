"""Sizes: the symbols of named sizes, their numbers, and the nodes that compute them."""

import math
import operator
from collections.abc import Mapping

import sympy
import torch
from torch import fx

from graphprune.ir.types import Size, TensorType


def symbol(name: str) -> sympy.Symbol:
    """The symbol of a named size."""
    return sympy.Symbol(name, integer=True, nonnegative=True)


def concrete(shape: tuple[Size, ...], setting: Mapping[str, int]) -> tuple[int, ...]:
    """The shape with numbers for its symbols."""
    return tuple(s if isinstance(s, int) else evaluate(s, setting) for s in shape)


def byte_count(value: TensorType, setting: Mapping[str, int]) -> int:
    """What a value takes, with numbers for the symbols of its shape."""
    return math.prod(concrete(value.shape, setting)) * value.dtype.itemsize


def evaluate(size: sympy.Expr, setting: Mapping[str, int]) -> int:
    return int(size.xreplace({symbol: sympy.Integer(setting[str(symbol)]) for symbol in size.free_symbols}))


def emit_size(graph: fx.Graph, size: sympy.Expr, before: fx.Node) -> fx.Node | int:
    """Insert the nodes that compute a symbolic size from the shapes of the graph's inputs."""
    if size.is_Integer:
        return int(size)
    with graph.inserting_before(before):
        node = symbol_node(graph, size) if size.is_Symbol else combine(graph, size, before)
    node.meta["value"] = size
    return node


def symbol_node(graph: fx.Graph, symbol: sympy.Expr) -> fx.Node:
    """Read a symbol off the first input that has it as a dimension; the cache comes last, since it may be removed."""
    placeholders = sorted(graph.find_nodes(op="placeholder"), key=lambda n: n.name.startswith("past_key_values"))
    for node in placeholders:
        value = node.meta["value"]
        if isinstance(value, TensorType) and symbol in value.shape:
            return graph.call_function(torch.ops.aten.sym_size.int, (node, value.shape.index(symbol)))
    raise AssertionError(f"no input has the size {symbol}")


def combine(graph: fx.Graph, size: sympy.Expr, before: fx.Node) -> fx.Node:
    assert size.is_Add or size.is_Mul, f"{size} is not a sum or a product"
    function = operator.add if size.is_Add else operator.mul
    parts = [emit_size(graph, part, before) for part in size.args]
    result, value = parts[0], size.args[0]
    for part, symbolic in zip(parts[1:], size.args[1:], strict=True):
        with graph.inserting_before(before):
            result = graph.call_function(function, (result, part))
        value = size.func(value, symbolic)
        result.meta["value"] = value
    assert isinstance(result, fx.Node)
    return result
