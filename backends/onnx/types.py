"""Types on the way to ONNX: element types, names of symbolic sizes, and the float32 form of a half-precision graph."""

from dataclasses import replace
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from graphprune.ir.graph import Graph
from graphprune.ir.types import Size, TensorType

DOMAIN = "com.microsoft"  # of the operators that only onnxruntime has
# The names that onnxruntime-genai and optimum give to the sizes of a decoder with past.
SIZE_NAMES = {
    "batch": "batch_size",
    "sequence": "sequence_length",
    "past": "past_sequence_length",
    "past + sequence": "total_sequence_length",
}


def size_name(size: Size) -> int | str:
    """A static size as an integer, a symbolic one under its contract name or as an expression over these."""
    if isinstance(size, int) or size.is_Integer:
        return int(size)
    renamed = size.xreplace({s: sympy.Symbol(SIZE_NAMES.get(s.name, s.name)) for s in size.free_symbols})
    return SIZE_NAMES.get(str(size), str(renamed))


def widen(value: Any, dtype: torch.dtype) -> Any:
    """Replace every half-precision element type in a node's argument or value by `dtype`."""
    if isinstance(value, torch.dtype):
        return dtype if is_half(value) else value
    if isinstance(value, TensorType):
        return replace(value, dtype=widen(value.dtype, dtype))
    if isinstance(value, (tuple, list)):
        return type(value)(widen(v, dtype) for v in value)
    return value


def is_half(dtype: torch.dtype) -> bool:
    return dtype in (torch.float16, torch.bfloat16)


def widen_types(graph: Graph, dtype: torch.dtype = torch.float32) -> Graph:
    """Return a fork whose constants and types say `dtype` where they said half; its tensors are still half.

    Casts to half inside the graph become casts to `dtype`, so the fork computes in `dtype` throughout once its tensors
    are cast too, which a writer can do one tensor at a time.
    """
    fork = graph.fork()
    for node in fork.nodes:
        node.args = fx.node.map_aggregate(node.args, lambda value: widen(value, dtype))
        node.kwargs = fx.node.map_aggregate(node.kwargs, lambda value: widen(value, dtype))
        if "value" in node.meta:
            node.meta["value"] = widen(node.meta["value"], dtype)
    fork.module.recompile()
    return fork


def float_copy(graph: Graph, dtype: torch.dtype = torch.float32) -> Graph:
    """Return the graph in `dtype` where it was in half precision: what a float32 artefact is compared with."""
    tensors = {name: cast_tensor(t, dtype) for name, t in graph.tensors().items() if is_half(t.dtype)}
    return widen_types(graph, dtype).with_tensors(tensors)


def cast_tensor(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    cast = tensor.detach().to(dtype)
    return torch.nn.Parameter(cast, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else cast
