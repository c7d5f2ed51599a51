"""The runner: a graph's module that holds for backward what cannot be computed again cheaply."""

import contextlib
from typing import Any, final

import torch
from torch import fx, nn
from torch.autograd.graph import saved_tensors_hooks

from graphprune.ir.graph import get_tensor
from graphprune.ir.operators import arguments_of, function_of
from graphprune.training.execution.held import Held
from graphprune.training.execution.schedule import make_schedule


@final
class Checkpointed(nn.Module):
    """Computes what the module computes, to the bit, and the same gradients; shares its parameters.

    The values of `recomputed` nodes are computed again in backward, each at most once while it is wanted.
    """

    def __init__(self, module: fx.GraphModule, recomputed: frozenset[str]) -> None:
        super().__init__()
        self.module = module
        self.schedule = make_schedule(module.graph, recomputed)

    def forward(self, *inputs: object) -> Any:
        if not torch.is_grad_enabled():
            return self.module(*inputs)
        held = Held(self.schedule, same_precision(inputs))
        with saved_tensors_hooks(held.pack, held.unpack):
            return self.run(held, iter(inputs))

    def run(self, held: Held, inputs: Any) -> object:
        for node in self.schedule.order:
            if node.op == "output":
                result = fx.node.map_arg(node.args[0], held.values.__getitem__)  # type: ignore[arg-type]
                break
            held.put(node, self.value(node, held, inputs))
            for gone in self.schedule.dying.get(node, ()):
                held.drop(gone)
        held.values, held.owners = {}, {}
        return result

    def value(self, node: fx.Node, held: Held, inputs: Any) -> object:
        if node.op == "placeholder":
            return next(inputs)
        if node.op == "get_attr":
            return get_tensor(self.module, str(node.target))
        args, kwargs = arguments_of(node, held.values)
        called = self.module.get_submodule(str(node.target)) if node.op == "call_module" else function_of(node)
        return called(*args, **kwargs)


def same_precision(inputs: tuple[object, ...]) -> contextlib.AbstractContextManager[object]:
    """The autocast that is on now, for a time and a thread in which it may not be."""
    kinds = {each.device.type for each in inputs if isinstance(each, torch.Tensor)}
    (kind,) = kinds or {"cpu"}
    if not torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=False)
