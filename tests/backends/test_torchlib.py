"""The look-up finds for every operator what torch's own exporter would take."""

import logging
import operator

import pytest
import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from graphprune.backends.onnx.torchlib import torchlib_functions


@pytest.mark.parametrize("opset", [20, 23])
def test_every_operator_has_the_function_of_torchs_registry(opset: int) -> None:
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    logger.setLevel(logging.ERROR)  # it warns about every optional package that is not installed
    registry, find = ONNXRegistry.from_torchlib(opset_version=opset), torchlib_functions(opset)
    packets = [getattr(torch.ops.aten, name) for name in dir(torch.ops.aten)]
    overloads = [getattr(p, name) for p in packets if hasattr(p, "overloads") for name in p.overloads()]
    python = [value for name in dir(operator) if callable(value := getattr(operator, name))]
    others = [target for target in registry.functions if not isinstance(target, str)]
    found = 0
    for target in (*overloads, *python, *others):
        wanted = [entry.onnx_function for entry in registry.get_decomps(target) if not entry.is_complex][:1]
        assert [find(target)] == (wanted or [None]), target
        found += bool(wanted)
    assert found > 400
