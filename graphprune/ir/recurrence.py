"""The operator `graphprune::linear_recurrence`: one node of a graph for the loop over tokens that no ATen call has."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

# The loop itself stands in a file that goes along with checkpoints.
from graphprune.generic.program_graphprune import linear_recurrence as run_recurrence


@torch.library.custom_op("graphprune::linear_recurrence", mutates_args=())
def linear_recurrence(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, state: Tensor, beta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs [batch, heads, tokens, V] and the last state [batch, heads, K, V]; see `run_recurrence`."""
    outputs, last = run_recurrence(query, key, value, decay, state, beta)
    return outputs, last.clone() if last is state else last


@linear_recurrence.register_fake
def describe_recurrence(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, state: Tensor, beta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(value, memory_format=torch.contiguous_format), torch.empty_like(state)


def save_operands(ctx: BackwardCFunction, inputs: Sequence[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def differentiate(ctx: BackwardCFunction, outputs: Tensor, last: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients by running the loop again with autograd: what is kept between the passes is the operands alone."""
    operands: list[Any] = [t.detach().requires_grad_() if t is not None else None for t in ctx.saved_tensors]
    with torch.enable_grad():
        results = run_recurrence(*operands)
    wanted = [t for t in operands if t is not None]
    found = iter(torch.autograd.grad(results, wanted, (outputs, last), allow_unused=True))
    return tuple(None if t is None else next(found) for t in operands)


linear_recurrence.register_autograd(differentiate, setup_context=save_operands)

# The call as it stands in graphs.
RECURRENCE = torch.ops.graphprune.linear_recurrence.default
