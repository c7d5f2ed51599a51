"""onnxscript's torchlib: the ONNX function of an ATen overload."""

import functools
import logging
from collections.abc import Callable, Sequence

import onnx_ir as ir
from torch.fx.node import Target

TorchlibFunction = Callable[..., ir.Value | Sequence[ir.Value]]


@functools.cache
def torchlib_functions(opset: int) -> Callable[[Target], TorchlibFunction | None]:
    """Return the look-up from an ATen overload (or a Python operator on sizes) to its torchlib function, or None."""
    # The registry warns about every optional package that is not installed.
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        registry = ONNXRegistry.from_torchlib(opset_version=opset)
    finally:
        logger.setLevel(level)

    def find(target: Target) -> TorchlibFunction | None:
        known = registry.get_decomps(target)  # type: ignore[arg-type]
        found = [entry for entry in known if not entry.is_complex]
        return found[0].onnx_function if found else None

    return find
