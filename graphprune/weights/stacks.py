"""Stacks: the weights that the experts of a layer have under one name, of which only what is picked need be in memory.

Outwardly a stack is the tensor [experts, ...] of the model. An operator that picks experts gets them one after the
other from what holds them, and computes for each what it computes for all of them at once: the same bits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, final

import torch
from torch import Tensor

from graphprune.errors import UsageError
from graphprune.weights.mapping import ALIGNMENT

_aten = torch.ops.aten
_SAME = frozenset({_aten.detach.default, _aten.alias.default, _aten.clone.default, _aten.contiguous.default})
_TURNED = frozenset({_aten.transpose.int, _aten.permute.default, _aten._to_copy.default})

View = Callable[[Tensor], Tensor]


class Holder(Protocol):
    """What has the experts of a model, or gets them."""

    def visit(self, stack: int, experts: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Each of these experts of a stack with its weight, in any order; it stays until the next is asked for."""


@final
class Stack(Tensor):
    """The weight [experts, ...] of this number at its holder, seen through `views`, each of [experts, ...] again."""

    holder: Holder
    number: int
    title: str
    views: tuple[View, ...]

    @staticmethod
    def __new__(cls, like: Tensor, holder: Holder, number: int, title: str, views: tuple[View, ...] = ()) -> Self:
        """One of the shape, strides and type of a tensor that has no values."""
        made: Self = Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=torch.device("cpu")
        )
        made.holder, made.number, made.title, made.views = holder, number, title, views
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Stack({self.title}, {tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operator: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return dispatch(operator, args, kwargs or {})

    def seen(self, view: View) -> "Stack":
        """The stack through one more view, which leaves the experts where they are."""
        like = view(torch.empty_strided(self.shape, self.stride(), dtype=self.dtype, device="meta"))
        return Stack(like, self.holder, self.number, self.title, (*self.views, view))

    def visit(self, experts: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Each of these experts with its weight as it is seen here, in any order."""
        for expert, weight in self.holder.visit(self.number, experts):
            whole = weight[None]
            for view in self.views:
                whole = view(whole)
            yield expert, whole[0]


@final
class Picked(Tensor):
    """The experts of a stack by their numbers `ids` [rows], [rows, ...]; none of them need be in memory yet."""

    stack: Stack
    ids: Tensor

    @staticmethod
    def __new__(cls, stack: Stack, ids: Tensor) -> Self:
        made: Self = Tensor._make_wrapper_subclass(
            cls, (len(ids), *stack.shape[1:]), strides=stack.stride(), dtype=stack.dtype, device=stack.device
        )
        made.stack, made.ids = stack, ids
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Picked({tuple(self.shape)} of {self.stack!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operator: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return dispatch(operator, args, kwargs or {})

    def rows(self) -> dict[int, list[int]]:
        """The rows that each expert has, by its number."""
        found: dict[int, list[int]] = {}
        for row, expert in enumerate(self.ids.tolist()):
            found.setdefault(expert % len(self.stack), []).append(row)
        return found

    def gathered(self) -> Tensor:
        """The tensor that this stands for, whole."""
        result = torch.empty(self.shape, dtype=self.dtype)
        rows = self.rows()
        for expert, weight in self.stack.visit(list(rows)):
            result[rows[expert]] = weight
        return result


def dispatch(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operator with a stack, or with what is picked of one, among its arguments."""
    first = args[0] if args else None
    if isinstance(first, (Stack, Picked)) and (view := view_of(operator, args, kwargs, first)) is not None:
        return first.seen(view) if isinstance(first, Stack) else Picked(first.stack.seen(view), first.ids)
    if isinstance(first, Stack) and (ids := picks(operator, args)) is not None:
        return Picked(first, ids)
    if operator is _aten.select.int and isinstance(first, Stack) and args[1] in (0, -first.ndim):
        return next(first.visit([args[2] % len(first)]))[1]
    if operator is _aten.bmm.default and any(isinstance(each, Picked) for each in args):
        return multiply_picked(*args)
    if str(operator) in _GROUPED and isinstance(args[1], Stack):
        return multiply_groups(*args, **kwargs)
    whole = [each.gathered() if isinstance(each, Picked) else each for each in args]
    if any(isinstance(each, Stack) for each in whole):
        stack = next(each for each in whole if isinstance(each, Stack))
        raise UsageError(f"{operator} reads all experts of {stack.title} at once; they cannot be streamed")
    return operator(*whole, **kwargs)


def view_of(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], first: Tensor) -> View | None:
    """What an operator does with a stack where each expert has its part of the result; None for other operators."""
    if operator in _SAME:
        return lambda tensor: tensor
    inner = [size % first.ndim for size in flat(args[1:])] if operator in _TURNED else []
    keeps = (
        operator is _aten._to_copy.default
        or (operator is _aten.transpose.int and 0 not in inner)
        or (operator is _aten.permute.default and inner[0] == 0)
        or (operator is _aten.unsqueeze.default and args[1] not in (0, -first.ndim - 1))
    )
    return (lambda tensor: operator(tensor, *args[1:], **kwargs)) if keeps else None


def flat(sizes: Sequence[Any]) -> list[int]:
    return [inner for size in sizes for inner in (size if isinstance(size, (list, tuple)) else [size])]


def picks(operator: Any, args: Sequence[Any]) -> Tensor | None:
    """The numbers of experts where an operator picks experts by a vector of numbers."""
    ids = None
    if operator is _aten.index.Tensor and len(args[1]) == 1:
        ids = args[1][0]
    elif operator is _aten.index_select.default and args[1] == 0:
        ids = args[2]
    return ids if isinstance(ids, Tensor) and ids.ndim == 1 and ids.dtype in (torch.int64, torch.int32) else None


def multiply_picked(left: Tensor, right: Tensor) -> Tensor:
    """The product of batches [rows, a, b] and [rows, b, c] of which one are picked experts: one expert after the other.

    A product of one row alone takes another way in MKL than one of several, and has other bits; a row that is its
    expert's only one is therefore computed twice where there are others.
    """
    if isinstance(left, Picked) and isinstance(right, Picked):
        right = right.gathered()
    picked = left if isinstance(left, Picked) else right
    assert isinstance(picked, Picked)
    others, rows = right if picked is left else left, picked.rows()
    result = torch.empty(len(left), left.shape[1], right.shape[2], dtype=left.dtype)
    for expert, weight in picked.stack.visit(list(rows)):
        own = rows[expert]
        if weight.data_ptr() % ALIGNMENT:  # a gathered one would lie at a multiple
            weight = weight.clone()
        places = torch.tensor(own * 2 if len(own) == 1 < len(left) else own)
        there, here = weight.expand(len(places), *weight.shape), others.index_select(0, places)
        made = torch.bmm(there, here) if picked is left else torch.bmm(here, there)
        result[places[: len(own)]] = made[: len(own)]
    return result


def multiply_groups(x: Tensor, stack: Stack, offs: Tensor, bias: None = None, out_dtype: Any = None) -> Tensor:
    """Rows x [rows, k], sorted by expert, times the experts [experts, k, n]; `offs` are where the rows of each end.

    As torch computes it on the processor: one product for each expert that has rows.
    """
    if bias is not None or out_dtype not in (None, x.dtype):
        raise UsageError(f"a grouped product with {stack.title} has a bias or another type; it cannot be streamed")
    ends = offs.tolist()
    spans = {e: (a, b) for e, (a, b) in enumerate(zip([0, *ends[:-1]], ends, strict=True)) if b > a}
    result = torch.zeros(len(x), stack.shape[2], dtype=x.dtype)
    for expert, weight in stack.visit(list(spans)):
        start, end = spans[expert]
        torch.mm(x[start:end], weight, out=result[start:end])
    return result


_GROUPED = frozenset({"aten._grouped_mm.default", "transformers.grouped_mm_fallback.default"})
