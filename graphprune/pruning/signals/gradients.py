"""Gradients as a stream: each is handed over as soon as backward has it, and freed before the next one comes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from graphprune.errors import DataError
from graphprune.ir.graph import Graph
from graphprune.pruning.signals.unit_sums import widen
from graphprune.running.inputs import Batch
from graphprune.running.loss import Loss, batch_loss

# float16 ends near 6e-8, where gradients of a mean loss are found; scaled by this much they are not.
_HALF_SCALE = 1024.0

# Takes the name of a leaf and its gradient in float32 or wider, which is its own to change.
Receive = Callable[[str, Tensor], None]


def with_leaves(graph: Graph, names: Iterable[str]) -> tuple[Graph, Mapping[str, Tensor]]:
    """A fork whose parameters share storage with the graph's but take gradients of their own, for these names only."""
    chosen = set(names)
    own = {n: torch.nn.Parameter(p.detach(), requires_grad=n in chosen) for n, p in graph.parameters().items()}
    return graph.with_tensors(own), {name: leaf for name, leaf in own.items() if name in chosen}


def backward(model: Graph, leaves: Mapping[str, Tensor], batch: Batch, loss: Loss | None, receive: Receive) -> None:
    """Hand over the gradient of the batch's mean loss by each leaf that it depends on, in the order of backward.

    At any moment one gradient is held: that of the leaf being handed over. A tied parameter has one, the sum over its
    uses. Raises DataError where the loss is not finite.
    """
    half = any(parameter.dtype == torch.float16 for parameter in model.parameters().values())
    scale = _HALF_SCALE if half else 1.0
    with torch.enable_grad(), hooked(leaves, lambda name, found: receive(name, unscale(found, scale))):
        value = batch_loss(model, batch, loss)
        if not bool(torch.isfinite(value)):
            raise DataError(f"the loss on the calibration data is {value.item()}; check the weights and the data")
        if value.requires_grad:
            (value * scale).backward()  # type: ignore[no-untyped-call]


@contextmanager
def hooked(leaves: Mapping[str, Tensor], receive: Receive) -> Iterator[None]:
    """Within the context, backward hands each leaf's gradient over and forgets it."""

    def pass_on(name: str) -> Callable[[Tensor], None]:
        def hook(leaf: Tensor) -> None:
            gradient, leaf.grad = leaf.grad, None
            if gradient is not None:
                receive(name, gradient)

        return hook

    register = torch.Tensor.register_post_accumulate_grad_hook
    handles = [register(leaf, pass_on(name)) for name, leaf in leaves.items()]  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def unscale(gradient: Tensor, scale: float) -> Tensor:
    """The gradient in float32 or wider, without the scale of the loss."""
    return widen(gradient) if scale == 1.0 else widen(gradient).div_(scale)
