"""Takeover: weights that stay make up for inputs that go, as far as these follow from the others (second order).

Of a linear call with weights W and the damped second moment H of its inputs, those of S go and those of K stay:

    W_K <- W_K - W_S (H^-1_SS)^-1 H^-1_SK  =  W_K + W_S H_SK H_KK^-1

the optimal brain surgeon for a whole structure, which is least squares on the inputs that stay. Source: Hassibi and
Stork 1993; SparseGPT, arXiv 2301.00774; that EfficientLLM, arXiv 2502.06663, does it in this form is inferred.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.analysis.groups import Group
from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.ir.graph import Graph


@dataclass(frozen=True, eq=False)
class Reader:
    """A linear call with a weight of its own along whose inputs units lie: `owners[id][i]` is the unit of input i, or
    -1. `source` names what it reads: the weight of the first call that reads it."""

    call: LinearCall
    source: str
    owners: Mapping[str, Tensor]

    def inputs(self, chosen: Mapping[str, Tensor], others: bool) -> Tensor:
        """Which inputs are of chosen units [units] of every group that has any there; those of no unit are `others`."""
        found = [torch.cat((mask, mask.new_tensor([others])))[self.owners[id]] for id, mask in chosen.items()]
        joined = torch.stack(found)
        return joined.all(0) if others else joined.any(0)


def find_readers(graph: Graph, groups: Sequence[Group]) -> tuple[Reader, ...]:
    """The calls whose weights can make up for units of these groups; not those whose weights are read elsewhere too."""
    found, sources = list[Reader](), dict[str, str]()
    for call in find_linear_calls(graph):
        inputs = 0 if call.transposed else 1
        slots = {g.id: slot for g in groups for slot in g.slots if (slot.name, slot.dim) == (call.weight, inputs)}
        if slots:
            owners = {id: torch.from_numpy(slot.owner) for id, slot in slots.items()}
            found.append(Reader(call, sources.setdefault(call.x.name, call.weight), owners))
    return tuple(found)


def second_moment(values: Tensor) -> Tensor:
    """The mean over tokens of x xᵀ, of values [.., k]: [k, k] in float32 or wider."""
    rows = values.detach().flatten(0, -2)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return rows.T @ rows / len(rows)


def take_over(weight: Tensor, moment: Tensor, gone: Tensor, left: Tensor, damping: float) -> None:
    """Let inputs that are left take over from those that are gone, masks [k]; the weight [outputs, k] is changed.

    `damping` is added to the diagonal, in units of its mean over both.
    """
    there = moment.double()[gone | left][:, gone | left]
    kept = left[gone | left]
    own = there[kept][:, kept]
    own.diagonal().add_(damping * float(there.diagonal().mean()) + torch.finfo(torch.float64).tiny)
    factor, failed = torch.linalg.cholesky_ex(own)
    if bool(failed):  # nothing was ever read there, or what was depends on itself
        return
    share = torch.cholesky_solve(there[kept][:, ~kept], factor)  # [kept, gone]
    change = weight[:, gone].double() @ share.T
    weight[:, left] += change.to(weight.dtype)
