"""Runs of a model that leave no trace on it: what it keeps is put back, and its tensors stay as they are."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


@contextlib.contextmanager
def fake_run(module: nn.Module) -> Iterator[FakeTensorMode]:
    """Fake tensors for one run of a module on its own weights."""
    with (
        unchanged(module),
        torch.no_grad(),
        FakeTensorMode(allow_non_fake_inputs=True) as fake,
        Preserving(),
    ):
        yield fake


@contextlib.contextmanager
def real_run(module: nn.Module) -> Iterator[None]:
    """One run of a module on tensors with values."""
    with unchanged(module), torch.no_grad(), Preserving(module):
        yield


class Preserving(TorchDispatchMode):
    """Calls that would change a real tensor change a copy: even among fake ones, torch runs those on real tensors.

    With a module, only the tensors of that module are kept from changes.
    """

    def __init__(self, module: nn.Module | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        tensors = [] if module is None else [*module.parameters(), *module.buffers()]
        self.own = None if module is None else {id(tensor) for tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:
            args, kwargs = tree_map(self.copied, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def copied(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
            return value
        return value.clone() if self.own is None or id(value) in self.own else value


@contextlib.contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Put back what the parts of a module keep from a run, in attributes and in lists and mappings that are attributes:
    fake tensors have no values for the next one."""
    kept: list[Any] = [vars(part) for part in module.modules()]
    kept += [value for attributes in kept for value in attributes.values() if isinstance(value, (dict, list))]
    before = [(place, copy.copy(place)) for place in kept]
    try:
        yield
    finally:
        for place, old in before:
            place.clear()
            (place.update if isinstance(place, dict) else place.extend)(old)
