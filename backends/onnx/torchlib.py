"""torchlib: the ONNX function of an ATen overload, from torch's own table or from onnxscript's."""

import functools
from collections.abc import Callable, Sequence

import onnx_ir as ir
import torch
from torch.fx.node import Target

TorchlibFunction = Callable[..., ir.Value | Sequence[ir.Value]]


@functools.cache
def torchlib_functions(opset: int) -> Callable[[Target], TorchlibFunction | None]:
    """Return the look-up from an ATen overload (or a Python operator on sizes) to its torchlib function, or None.

    It finds what torch's `ONNXRegistry` finds, which reads the signatures of all the functions first.
    """
    from onnxscript.function_libs.torch_lib import ops, registration
    from torch.onnx._internal.exporter._torchlib._torchlib_registry import get_torchlib_ops

    del ops  # it fills the registry
    theirs = registration.default_registry
    own: dict[str, TorchlibFunction] = {}
    for entry in sorted(get_torchlib_ops(), key=lambda entry: -entry.opset_introduced):
        if entry.opset_introduced <= opset and not entry.is_complex:
            own.setdefault(names_of(entry.fx_target)[0], entry.onnx_function)

    def find(target: Target) -> TorchlibFunction | None:
        names = names_of(target)
        if names[0] in own:
            return own[names[0]]
        return next((entry for name in names if name in theirs for entry in theirs[name].overloads), None)

    return find


def names_of(target: Target) -> tuple[str, ...]:
    """The names under which the tables may have it: `aten::add.Tensor`; of Python's own, `_operator::lshift` or
    `_operator::__lshift__`."""
    if isinstance(target, torch._ops.OpOverload):
        return (target.name(),)  # type: ignore[no-untyped-call]
    module, name = getattr(target, "__module__", ""), getattr(target, "__name__", str(target))
    return f"{module}::{name}", f"{module}::__{name.strip('_')}__"
