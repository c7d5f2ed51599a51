"""What lowerings work with: the operators of an opset, and what a call becomes."""

from collections.abc import Callable, Sequence
from typing import Protocol

import onnx_ir as ir
from torch import fx

# A value, several, or None where the call is left to torchlib.
Lowered = ir.Value | Sequence[ir.Value] | None
Lowering = Callable[..., Lowered]


class Operators(Protocol):
    """The operators of ai.onnx by name; each call records a node and returns its value.

    An operand is a value or a number, which becomes a constant.
    """

    @property
    def version(self) -> int:
        """The opset."""

    def __getattr__(self, attr: str) -> Callable[..., ir.Value]: ...


class Recorder(Protocol):
    """Where the nodes of the call that is being lowered are collected."""

    nodes: list[ir.Node]


Values = dict[fx.Node, ir.Value | Sequence[ir.Value]]  # of the nodes that were lowered so far
Fusion = Callable[[Operators, Recorder, Values], Lowered]  # writes several calls as one; may set other nodes' values


def value_of(values: Values, node: fx.Node) -> ir.Value:
    """The value of a node that has one."""
    value = values[node]
    assert isinstance(value, ir.Value), f"{node.name} has several values"
    return value
