"""Functional form: exported calls that alias or change a tensor become calls that make a new one.

`run_decompositions({})` does the same by tracing the program a second time, which costs as much as the export; it is
used where a program has something that this file does not know to be safe.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from graphprune.errors import CaptureError
from graphprune.frontend.tracing.draft import Draft
from graphprune.ir.operators import opname, overload_name
from graphprune.ir.types import TensorType

_aten = torch.ops.aten
_FULL = 2**63 - 1
# Calls that return their operand where nothing about its type changes.
_COPIES = {"to", "_to_copy", "contiguous", "alias", "lift_fresh_copy", "detach", "detach_", "clone"}
_RESHAPES = {"view", "_unsafe_view", "reshape", "flatten", "unflatten"}
# Other names of the same call.
_RENAMED = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape"), _aten.reshape.default),
    **dict.fromkeys(("swapaxes", "swapdims"), _aten.transpose.int),
}
# What makes a tensor without values; zeros are as good, and the same each time. What empties one gives zeros too.
_UNWRITTEN = {
    "empty": _aten.zeros.default,
    "new_empty": _aten.new_zeros.default,
    "empty_like": _aten.zeros_like.default,
    "zero": _aten.zeros_like.default,
}
_VIEWS = {
    "view",
    "transpose",
    "permute",
    "slice",
    "select",
    "expand",
    "unsqueeze",
    "squeeze",
    "t",
    "numpy_T",
    "chunk",
    "split",
}


def is_simple(program: torch.export.ExportedProgram) -> bool:
    """Say whether every call is one that `functional` can write: plain operators, and only safe changes in place."""
    for node in program.graph.nodes:
        if node.op == "get_attr" or (
            node.op == "call_function" and isinstance(node.target, torch._ops.HigherOrderOperator)
        ):
            return False
        if is_mutable(node) and not is_safe_change(node):
            return False
    return True


def is_mutable(node: fx.Node) -> bool:
    """Say whether a call changes the values of a tensor; `detach_`, which `torch.tensor` makes, changes none."""
    if not isinstance(node.target, torch._ops.OpOverload) or opname(node) == "detach_":
        return False
    return bool(node.target._schema.is_mutable)


def is_safe_change(node: fx.Node) -> bool:
    """Changing a tensor in place is safe to undo where a call made it, or it is the model's own, and it has no view."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or functional_overload(node) is None:
        return False
    made = source.op == "placeholder" or opname(source) not in _VIEWS | _RESHAPES | _COPIES
    return made and all(user is node or opname(user) not in _VIEWS | _RESHAPES | _COPIES for user in source.users)


def functional_overload(node: fx.Node) -> Any:
    """The operator that returns what this one writes in place: `add_` has `add`."""
    name = opname(node)
    if not name.endswith("_") or name.endswith("__"):
        return None
    packet = getattr(_aten, name[:-1], None)
    return getattr(packet, overload_name(node), None) if packet is not None else None


def functional_form(draft: Draft) -> int:
    """Write every call in its functional form, and leave out those that give their operand; how many there were.

    Raises CaptureError where a run changes what it may not.
    """
    current: dict[fx.Node, fx.Node] = {}  # what was changed or is left out, and what stands for it from there on
    left_out, written = list[fx.Node](), 0
    for node in draft.graph.nodes:
        read = node.args[0] if is_mutable(node) else None
        args, kwargs = (fx.node.map_arg(a, lambda n: current.get(n, n)) for a in (node.args, node.kwargs))
        if node.op == "call_function":
            call = functional(node, args, dict(kwargs), node.meta["value"])
            if isinstance(call, tuple):
                written += call != (node.target, args, kwargs)
                node.target, args, kwargs = call
            else:
                current[node] = call
                left_out.append(node)
        node.args, node.kwargs = args, kwargs
        if isinstance(read, fx.Node):
            current[read] = current.get(node, node)  # later readers see the changed tensor
    for node in reversed(left_out):
        draft.graph.erase_node(node)
    check_changes(draft, {name: current.get(node, node) for name, node in draft.changed.items()})
    return len(left_out) + written


def check_changes(draft: Draft, changed: Mapping[str, fx.Node]) -> None:
    """A model may only change parameters, and whatever its inputs are: not count its runs. Raises CaptureError."""
    wrong = [name for name, node in changed.items() if name not in draft.own or depends_on_inputs(node)]
    if wrong:
        raise CaptureError(f"the model changes its own buffers when it runs: {', '.join(wrong[:3])}")


def depends_on_inputs(node: fx.Node) -> bool:
    """Say whether the value of a node is computed from what the graph takes."""
    seen, left = {node}, [node]
    while left:
        new = [source for source in left.pop().all_input_nodes if source not in seen]
        seen.update(new)
        left += new
    return any(found.op == "placeholder" for found in seen)


def functional(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> Any:
    """The call to write for an exported one: an operand itself, or `(target, args, kwargs)`.

    Also spells out what a cut would change silently: even splits, what a squeeze takes, attention's default scale,
    strides that views need. A tensor without values becomes one of zeros.
    """
    name, target = opname(node), node.target
    if name in _COPIES and isinstance(args[0], fx.Node):
        return copied(args[0], value)
    if name == "dropout" or (name == "slice" and is_full_slice(args)):
        return args[0]
    if name == "numpy_T":
        return _aten.permute.default, (args[0], list(range(len(value.shape)))[::-1]), {}
    if name in _RENAMED:
        return _RENAMED[name], args, {}
    if name == "squeeze":
        return squeezed(node, args)
    if name in ("split", "chunk"):
        return split_evenly(target, args, kwargs, value)
    if name == "scaled_dot_product_attention" and kwargs.get("scale") is None:
        return target, args, {**kwargs, "scale": float(args[0].meta["value"].shape[-1]) ** -0.5}
    if name in _UNWRITTEN:
        return _UNWRITTEN[name], args, {k: v for k, v in kwargs.items() if k != "memory_format"}
    if is_mutable(node):
        return functional_overload(node), args, kwargs
    return target, args, kwargs


def split_evenly(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> Any:
    """The sizes of the pieces in place of their number, where they are integers."""
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    sizes = [piece.shape[dim] for piece in value]
    if all(isinstance(size, int) for size in sizes):
        return _aten.split_with_sizes.default, (args[0], sizes, dim), {}
    return target, args, kwargs


def squeezed(node: fx.Node, args: tuple[Any, ...]) -> Any:
    """The dimensions that go by number: `squeeze()` would take one along that a cut leaves with a single unit."""
    shape = args[0].meta["value"].shape
    named = args[1] if len(args) > 1 else list(range(len(shape)))
    dims = sorted(d % len(shape) for d in ([named] if isinstance(named, int) else named) if shape[d] == 1)
    if not dims:
        return args[0]
    return (_aten.squeeze.dim, (args[0], dims[0]), {}) if len(dims) == 1 else (_aten.squeeze.dims, (args[0], dims), {})


def copied(operand: fx.Node, value: TensorType) -> Any:
    """A copy that only changes the element type; the operand itself where that stays."""
    source: TensorType = operand.meta["value"]
    if source.dtype == value.dtype:
        return operand
    return _aten._to_copy.default, (operand,), {"dtype": value.dtype}


def is_full_slice(args: tuple[Any, ...]) -> bool:
    """Say whether a slice keeps everything: `x[:]`."""
    start, end, step = (*args[2:], None, None, None)[:3]
    return not start and end in (None, _FULL) and step in (None, 1)
