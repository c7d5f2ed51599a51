"""Unit inputs: where the units of a group are read, as the inputs of what multiplies them by a weight."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from graphprune.analysis.groups import Group
from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import bind, operator_key
from graphprune.ir.types import TensorType


@dataclass(frozen=True)
class Product:
    """The value of `node` times `weight`, summed over dimension `dim` of the value and `weight_dim` of the weight."""

    node: str
    dim: int
    weight: str
    weight_dim: int


@dataclass(frozen=True, eq=False)
class UnitInputs:
    """The inputs of one product that belong to a group: `owner[i]` is the unit of input i, or -1."""

    product: Product
    owner: NDArray[numpy.int64]


def find_unit_inputs(graph: Graph, groups: Sequence[Group], what: str) -> dict[str, tuple[UnitInputs, ...]]:
    """Where the units of each group are read, by its id. Raises UsageError for a group that nothing reads."""
    products: dict[tuple[str, int], list[Product]] = {}
    for product in find_products(graph):
        products.setdefault((product.weight, product.weight_dim), []).append(product)
    found = {}
    for group in groups:
        slots = {(slot.name, slot.dim): slot for slot in group.slots}
        found[group.id] = tuple(UnitInputs(p, slots[key].owner) for key in slots for p in products.get(key, ()))
        if not found[group.id]:
            raise UsageError(
                f"{what} can not score {group.id} ({group.kind}): no linear call reads it; use taylor or magnitude"
            )
    return found


def find_products(graph: Graph) -> Iterator[Product]:
    """Every linear call, and every batch of products with stacked weights, such as those of experts."""
    for call in find_linear_calls(graph, shared=True):
        yield Product(call.x.name, -1, call.weight, 0 if call.transposed else 1)
    for node in graph.nodes:
        if node.op == "call_function" and operator_key(node) in _BATCHED:
            left, right = (bind(node)[name] for name in _BATCHED[operator_key(node)])
            for x, dim, weight, place in ((left, -1, right, -2), (right, -2, left, -1)):
                stacked = find_stacked(weight, place)
                if stacked is not None:
                    yield Product(x.name, dim, *stacked)


def find_stacked(node: fx.Node, dim: int) -> tuple[str, int] | None:
    """The parameter [.., n, m] that a value was picked from, and the place there of its dimension -1 or -2."""
    while node.op == "call_function" and operator_key(node) in (*_PICKS, *_SWAPS):
        if operator_key(node) in _SWAPS:
            if not swaps(node):
                return None
            dim = -3 - dim
        node = node.args[0]  # type: ignore[assignment]
    value = node.meta.get("value")
    whole = node.op == "get_attr" and isinstance(value, TensorType) and len(value.shape) == 3
    return (str(node.target), 3 + dim) if whole else None


def swaps(node: fx.Node) -> bool:
    """Whether this swaps the last two of three dimensions."""
    dims = [d % 3 for arg in node.args[1:] for d in (arg if isinstance(arg, (list, tuple)) else (arg,))]  # type: ignore[operator]
    return dims in ([0, 2, 1], [1, 2], [2, 1], [])


def score_units(
    group: Group, read: Sequence[UnitInputs], score: Callable[[UnitInputs], Tensor], mean: bool = False
) -> Tensor:
    """The scores of all inputs that each unit has, their sum or their mean: float32 [units] on the CPU."""
    sums = torch.zeros(2, group.units, dtype=torch.float64)
    for inputs in read:
        place = torch.from_numpy(inputs.owner)
        owned = place >= 0
        values = score(inputs).cpu().double()[owned]
        sums.index_add_(1, place[owned], torch.stack([values, torch.ones_like(values)]))
    return (sums[0] / sums[1].clamp(min=1) if mean else sums[0]).float()


_BATCHED: Mapping[str, tuple[str, str]] = {
    "aten.bmm": ("self", "mat2"),
    "aten.matmul": ("self", "other"),
    "aten.baddbmm": ("batch1", "batch2"),
}
_PICKS = ("aten.index", "aten.index_select", "aten.clone", "aten._to_copy", "aten.contiguous")
_SWAPS = ("aten.transpose", "aten.permute", "aten.mT")
