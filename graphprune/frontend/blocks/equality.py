"""Equality of blocks: the same classes, attributes, shapes and buffers, but for a block's own index."""

import functools
import types
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor


@dataclass(frozen=True)
class Comparison:
    """Two blocks of one list: `first` and `second` are their indices, `seen` the pairs of objects compared so far."""

    first: int
    second: int
    seen: dict[tuple[int, int], tuple[Any, Any]] = field(default_factory=dict)

    def same(self, a: Any, b: Any) -> bool:
        """Say whether two values are equal, an integer being allowed to be the index of its block in each."""
        if a is b:
            return True
        if type(a) is not type(b):
            return False
        if isinstance(a, int) and not isinstance(a, bool):
            return a == b or (a, b) == (self.first, self.second)
        if (id(a), id(b)) in self.seen:
            return True
        self.seen[id(a), id(b)] = (a, b)  # held, so that no other object takes these ids
        return self.same_inside(a, b)

    def same_inside(self, a: Any, b: Any) -> bool:
        """Compare two different objects of one class by what they hold."""
        if isinstance(a, Tensor):
            return same_tensor(a, b)
        if isinstance(a, dict):
            return list(a) == list(b) and all(self.same(a[key], b[key]) for key in a)
        if isinstance(a, (list, tuple)):
            return len(a) == len(b) and all(map(self.same, a, b))
        if isinstance(a, types.MethodType):
            return a.__func__ is b.__func__ and self.same(a.__self__, b.__self__)
        if isinstance(a, functools.partial):
            return self.same((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
        if isinstance(a, types.FunctionType):
            return False  # what a function closes over is not looked at
        if isinstance(a, nn.Module) or is_compared_by_identity(a):
            return hasattr(a, "__dict__") and self.same(vars(a), vars(b))
        return equal(a, b)


def same_block(a: nn.Module, b: nn.Module, first: int, second: int) -> bool:
    """Say whether two members of a list of modules are equal in everything but the values of their parameters."""
    return Comparison(first, second).same(a, b)


def same_tensor(a: Tensor, b: Tensor) -> bool:
    """Parameters agree in type, shape and place; what is not trained agrees in its values too."""
    if (a.dtype, a.shape, a.device, a.requires_grad) != (b.dtype, b.shape, b.device, b.requires_grad):
        return False
    if isinstance(a, FakeTensor) or isinstance(b, FakeTensor):  # left behind by a run that kept what it computed
        return False
    return isinstance(a, nn.Parameter) or a.is_meta or torch.equal(a, b)


def is_compared_by_identity(value: Any) -> bool:
    return all("__eq__" not in vars(kind) for kind in type(value).__mro__[:-1])


def equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):  # arrays and the like, which have no one answer
        return False
