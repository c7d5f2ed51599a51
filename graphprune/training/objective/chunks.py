"""Chunks: the sums of a batch a few tokens at a time, so that neither logits nor their gradient are ever whole.

The loss is a sum over tokens, so the gradient of a chunk with respect to its features and the head is known as soon as
its logits are: it is taken at once, and the logits are gone before the next are made. Nothing is computed twice. This
is what fused linear cross entropy does in one kernel (Liger-Kernel, arXiv 2410.10989).
"""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

Sums = tuple[Tensor, Tensor, Tensor]  # loss, cross entropy, divergence
_LARGEST_CHUNK = 1 << 24  # logits that are there at a time, in float32


def chunked_sums(
    sums: Callable[[Tensor, slice], Sums], features: Tensor, parameters: Sequence[Tensor], words: int
) -> Sums:
    """The sums over all tokens of features [tokens, ...]; `sums` gives those of some features and where they are.

    Gradients go to the features and to these parameters, with which `sums` works.
    """
    size = max(1, _LARGEST_CHUNK // words)
    return Chunks.apply(sums, size, features, *parameters)  # type: ignore[no-any-return, no-untyped-call]


@final
class Chunks(torch.autograd.Function):
    """Forward takes the gradients as well, backward scales them."""

    @staticmethod
    def forward(
        ctx: Any, sums: Callable[[Tensor, slice], Sums], size: int, features: Tensor, *parameters: Tensor
    ) -> Sums:
        needed = ctx.needs_input_grad[2:]
        gradients = [
            torch.zeros_like(each) if need else None for each, need in zip((features, *parameters), needed, strict=True)
        ]
        found = [features.new_zeros((), dtype=torch.float32) for _ in range(3)]
        for start in range(0, len(features), size):
            part = slice(start, start + size)
            given = features[part].detach()
            with torch.set_grad_enabled(any(needed)):
                values = sums(given.requires_grad_(needed[0]), part)
                # Of the mean over tokens: a gradient of the sum could leave the range of half precision.
                collect(values[0] / len(features), given, part, parameters, gradients)
            found = [total + value.detach() for total, value in zip(found, values, strict=True)]
        ctx.gradients, ctx.tokens = gradients, len(features)
        ctx.mark_non_differentiable(*found[1:])
        return found[0], found[1], found[2]

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # In place: the head's is as large as the head. A second backward is an error, as after autograd's own.
        gradients, ctx.gradients = ctx.gradients, ()
        scaled = (None if each is None else each.mul_(scale * ctx.tokens) for each in gradients)
        return (None, None, *scaled)


def collect(
    loss: Tensor, given: Tensor, part: slice, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> None:
    """Add the gradient of a chunk's loss to those that are wanted."""
    inputs = [each for each, want in zip((given, *parameters), gradients, strict=True) if want is not None]
    wanted = [want for want in gradients if want is not None]
    if not inputs or not loss.requires_grad:
        return
    own = torch.autograd.grad(loss, inputs, allow_unused=True)
    for place, (total, gradient) in enumerate(zip(wanted, own, strict=True)):
        if gradient is not None:
            target = total[part] if place == 0 and gradients[0] is not None else total
            target += gradient
