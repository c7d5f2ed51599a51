"""Inputs seen: first and second moments of what products read, and the size of the weights that read it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from graphprune.errors import DataError
from graphprune.ir.graph import Graph
from graphprune.pruning.activations.observe import Reading, observe
from graphprune.pruning.activations.reductions import squares, tokens, total
from graphprune.pruning.activations.unit_inputs import Product, UnitInputs
from graphprune.running.inputs import Batch

Place = tuple[str, int]  # a node, and the dimension of its value that a product runs over
_ROUNDING = 1e-13  # of the mean square: a variance below it is what rounding in float32 makes of a constant


@dataclass(frozen=True, eq=False)
class Seen:
    """What the inputs of a product were on the calibration data: how many tokens, their sum and that of squares."""

    tokens: float
    total: Tensor
    squares: Tensor

    def mean_square(self) -> Tensor:
        return self.squares / self.tokens

    def variance(self) -> Tensor:
        """Unbiased; 0 for what is constant up to rounding."""
        found = (self.squares - self.total.square() / self.tokens) / max(1.0, self.tokens - 1)
        return torch.where(found > _ROUNDING * self.mean_square(), found, 0.0)


def see_inputs(graph: Graph, read: Iterable[Sequence[UnitInputs]], batches: Sequence[Batch]) -> dict[Place, Seen]:
    """The moments of everything that these products read. Raises DataError where they are not finite."""
    places = dict.fromkeys((inputs.product.node, inputs.product.dim) for each in read for inputs in each)
    readings = {
        (place, reduce): Reading(place[:1], partial(along, place[1], reduce))
        for place in places
        for reduce in (tokens, total, squares)
    }
    found = observe(graph, readings, batches)
    return {p: finite(p, Seen(float(found[p, tokens]), found[p, total].cpu(), found[p, squares].cpu())) for p in places}


def see_value(place: Place, batches: Iterable[Batch], values: Iterable[Tensor]) -> Seen:
    """The moments of one value that is there for every batch. Raises DataError where they are not finite."""
    found = [
        [along(place[1], reduce, batch, value) for reduce in (tokens, total, squares)]
        for batch, value in zip(batches, values, strict=True)
    ]
    count, first, second = (sum(each[1:], each[0]) for each in zip(*found, strict=True))
    return finite(place, Seen(float(count), first.cpu(), second.cpu()))


def finite(place: Place, seen: Seen) -> Seen:
    """The moments, which are numbers."""
    if not bool(torch.isfinite(seen.squares).all()):
        raise DataError(f"the activations at {place[0]} are not finite; check the weights and the calibration data")
    return seen


def along(dim: int, reduce: Callable[[Batch, Tensor], Tensor], batch: Batch, value: Tensor) -> Tensor:
    """A reduction with this dimension of the value as the last."""
    return reduce(batch, value.movedim(dim, -1))


def column_norms(product: Product, tensors: Mapping[str, Tensor], order: int) -> Tensor:
    """The norm, of this order, of the weights that read each input: float64 [inputs], or [experts, inputs]."""
    weight = tensors[product.weight].detach().movedim(product.weight_dim, -1)
    return torch.as_tensor(torch.linalg.vector_norm(weight, order, dim=-2, dtype=torch.float64)).cpu()


def mean_weight(product: Product, tensors: Mapping[str, Tensor]) -> Tensor:
    """The mean |w| of the weights that read each input, over all experts where they are stacked: [inputs]."""
    outputs = tensors[product.weight].movedim(product.weight_dim, -1).shape[-2]
    return over_experts(column_norms(product, tensors, 1) / outputs)


def over_experts(values: Tensor) -> Tensor:
    """The mean over all dimensions but the last: of a token, any expert may be chosen."""
    return values.flatten(0, -2).mean(0) if values.ndim > 1 else values
