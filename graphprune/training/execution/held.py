"""What one forward holds for its backward: kept values, and where to begin for those that are computed again.

Autograd asks at each tensor that it saves. Where its memory is that of a value that is computed again, the value's node
is put down in its place; backward runs the node anew on what is kept, by the same operators and so to the same bits.
Nothing else is touched, and what is not recognised is saved as it always is.
"""

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphprune.ir.operators import arguments_of, function_of
from graphprune.training.execution.schedule import Schedule


@final
@dataclass(eq=False)
class Saved:
    """A tensor that autograd saved: itself, or the node that makes its memory and where it lies in that."""

    tensor: Tensor | None
    node: fx.Node | None = None
    place: tuple[Any, ...] = ()


@final
class Held:
    """The values of one forward. `pack` and `unpack` are autograd's hooks for what it saves."""

    def __init__(self, schedule: Schedule, precision: contextlib.AbstractContextManager[object]) -> None:
        self.schedule, self.precision = schedule, precision
        self.values: dict[fx.Node, object] = {}
        self.owners: dict[int, list[Any]] = {}  # by memory: the first node with a value there, how many have one
        self.fresh: list[tuple[int, Saved]] = []  # saved by the operator that runs now, and of no value so far
        self.roots: dict[fx.Node, object] = {}
        self.again: dict[fx.Node, object] = {}
        self.wanted = Counter[fx.Node]()

    def put(self, node: fx.Node, value: object) -> None:
        """Take a node's value; what the operator saved of its own result is known from now on."""
        self.values[node] = value
        if isinstance(value, Tensor) and node.op == "call_function" and (memory := memory_of(value)):
            self.owners.setdefault(memory, [node, 0])[1] += 1
            for saved in (saved for known, saved in self.fresh if known == memory):
                self.replace(saved, node)
        self.fresh = []

    def drop(self, node: fx.Node) -> None:
        value = self.values.pop(node, None)
        if isinstance(value, Tensor) and node.op == "call_function" and (memory := memory_of(value)):
            self.owners[memory][1] -= 1
            if not self.owners[memory][1]:
                del self.owners[memory]

    def pack(self, tensor: Tensor) -> Saved:
        saved, memory = Saved(tensor.detach()), memory_of(tensor)
        owner = self.owners.get(memory)
        if owner is not None:
            self.replace(saved, owner[0])
        elif memory:
            self.fresh.append((memory, saved))
        return saved

    def replace(self, saved: Saved, node: fx.Node) -> None:
        """Put the node in the place of its value, where it can be computed again."""
        sources = self.schedule.sources.get(node)
        if sources is None or saved.tensor is None or any(each not in self.values for each in sources):
            return
        self.roots.update((each, detached(self.values[each])) for each in sources if each not in self.roots)
        self.wanted[node] += 1
        tensor, saved.tensor, saved.node = saved.tensor, None, node
        saved.place = (tensor.size(), tensor.stride(), tensor.storage_offset(), tensor.dtype)

    def unpack(self, saved: Saved) -> Tensor:
        if saved.tensor is not None:
            return saved.tensor
        assert saved.node is not None
        value = self.again.get(saved.node)
        if value is None:
            value = self.compute(saved.node)
        self.wanted[saved.node] -= 1
        if self.wanted[saved.node] <= 0:
            self.again.pop(saved.node, None)
        assert isinstance(value, Tensor)
        size, stride, offset, _ = saved.place
        return value.as_strided(size, stride, offset)

    def compute(self, node: fx.Node) -> object:
        """A node's value once more; those of others on the way stay where backward will ask for them."""
        found: dict[fx.Node, object] = {}
        with torch.no_grad(), self.precision:
            for each in self.missing(node):
                values = {given: self.known(given, found) for given in each.all_input_nodes}
                args, kwargs = arguments_of(each, values)
                found[each] = function_of(each)(*args, **kwargs)
        self.again.update((each, value) for each, value in found.items() if self.wanted[each] > 0)
        return found[node]

    def missing(self, node: fx.Node) -> list[fx.Node]:
        """What has to run for a node's value, in order."""
        seen, waiting = {node}, [node]
        while waiting:
            fresh = {
                each for each in waiting.pop().all_input_nodes if each not in self.roots and each not in self.again
            }
            waiting += fresh - seen
            seen |= fresh
        return sorted(seen, key=self.schedule.position.__getitem__)

    def known(self, node: fx.Node, found: Mapping[fx.Node, object]) -> object:
        return next(values[node] for values in (self.roots, self.again, found) if node in values)


def memory_of(tensor: Tensor) -> int:
    """Which memory a tensor lies in; 0 where there is none to speak of.

    By the storage, not by its address: that of a subclass which wraps its values has none, and may not be asked.
    """
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else 0


def detached(value: object) -> object:
    """The value without its history; several tensors as such."""
    return pytree.tree_map_only(Tensor, torch.Tensor.detach, value)
