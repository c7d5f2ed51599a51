"""Types: the shape and the number type of a tensor of the graph."""

from dataclasses import dataclass
from typing import TypeAlias

import sympy
import torch
from torch import fx

Size: TypeAlias = int | sympy.Expr
NodeValue: TypeAlias = "TensorType | Size | tuple[NodeValue, ...] | None"  # what a node of the graph holds


@dataclass(frozen=True)
class TensorType:
    """Element type and shape of a tensor value; symbolic sizes are expressions over batch, sequence and past."""

    dtype: torch.dtype
    shape: tuple[Size, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}[{', '.join(map(str, self.shape))}]"


def tensor_type(node: fx.Node) -> TensorType:
    """The type of a node that is known to hold one tensor."""
    value = node.meta["value"]
    assert isinstance(value, TensorType), f"{node.name} does not hold a tensor"
    return value
