"""Dense rows: loops over rows that are picked by value are traced over all rows, with a mask where they are written.

A loop of the kind "for every expert that was hit: take its tokens, compute, add the result to these tokens" has shapes
that depend on values, which no export follows. While a model is traced under `DenseRows`, every entry counts as hit,
all rows are taken for each, and rows that were not picked are zeroed where results are added. It computes the same,
provided that what happens to the rows in between happens to each by itself, at the price of computing them all.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.overrides import TorchFunctionMode

from graphprune.errors import CaptureError

_READS = {"__getitem__", "numel", "size", "dim", "__get__", "index_select"}
_KEYWORDS = {"as_tuple", "dim", "index", "source"}  # of calls that are replaced
# What keeps the entries of an encoding in place, so that those beyond the last choice stay empty.
_KEEPS = {"one_hot", "permute", "transpose", "sum", "any", "greater", "gt", "ne", "to", "bool", "long", "int"}


@dataclass(frozen=True, eq=False)
class Rows:
    """What a tensor of all rows stands for: the rows for which the mask holds; part `part` of `parts` of a split.

    Indices of picked rows count along dimension `dim` of a condition of this shape.
    """

    mask: Tensor
    part: int = 0
    parts: int = 1
    shape: tuple[Any, ...] = ()
    dim: int = 0


class Entry(int):
    """The number of an entry that counts as hit, wherever a tensor with that number was expected."""

    def __getitem__(self, index: Any) -> "Entry":
        return self

    def item(self) -> int:
        return int(self)


@dataclass(frozen=True, eq=False)
class Count:
    """The number of rows of one part, known by its place in a tensor of counts alone: only a split can read it."""

    counts: Tensor
    index: int


class DenseRows(TorchFunctionMode):
    """Traces data-dependent picks of rows as all rows with a mask; `used` are the calls that it had to replace."""

    def __init__(self) -> None:
        super().__init__()
        self.used: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        replaced = _REPLACED.get(name) if args and kwargs.keys() <= _KEYWORDS else None
        result = replaced(*args, **kwargs) if replaced is not None else NotImplemented
        if result is not NotImplemented:
            self.used.append(name)
            return result
        operands = [*args, *kwargs.values()]
        picked = [rows_of(a) for o in operands for a in (o if isinstance(o, (tuple, list)) else [o]) if is_picked(a)]
        if any(rows.shape for rows in picked) and name not in _READS:
            raise CaptureError(f"cannot trace {name} with rows that are picked by value")
        result = func(*args, **kwargs)
        if picked and not picked[0].shape and isinstance(result, Tensor):
            tag(result, picked[0])
        keep_bound(name, args, kwargs, result)
        return result


def keep_bound(name: str, args: tuple[Any, ...], kwargs: Any, result: Any) -> None:
    """Remember among how many entries was chosen: an encoding with room for one more never has it."""
    if name == "topk":
        dim = kwargs.get("dim", args[2] if len(args) > 2 else -1)
        result[1]._graphprune_bound = args[0].shape[dim]
    elif name in _KEEPS and args and hasattr(args[0], "_graphprune_bound") and isinstance(result, Tensor):
        vars(result)["_graphprune_bound"] = vars(args[0])["_graphprune_bound"]


@contextlib.contextmanager
def dense_rows() -> Iterator[DenseRows]:
    """Trace under `DenseRows`, which is given.

    Traced tensors make lists of their values by methods of their own, which are replaced here.
    """
    classes: tuple[Any, ...] = (FakeTensor, FunctionalTensor)
    methods = [cls.tolist for cls in classes]
    mode = DenseRows()
    for cls, method in zip(classes, methods, strict=True):
        cls.tolist = functools.partialmethod(counts_or_values, method, mode)
    try:
        with mode:
            yield mode
    finally:
        for cls, method in zip(classes, methods, strict=True):
            cls.tolist = method


def counts_or_values(tensor: Tensor, method: Callable[[Tensor], Any], mode: DenseRows) -> Any:
    result = NotImplemented if getattr(tensor, "constant", None) is not None else tolist(tensor)
    if result is NotImplemented:
        return method(tensor)
    mode.used.append("tolist")
    return result


def rows_of(value: Any) -> Any:
    return getattr(value, "_graphprune_rows", None)


def is_picked(value: Any) -> bool:
    return isinstance(value, Tensor) and rows_of(value) is not None


def tag(tensor: Tensor, rows: Rows) -> Tensor:
    tensor._graphprune_rows = rows  # type: ignore[attr-defined]
    return tensor


def nonzero(condition: Tensor, *, as_tuple: bool = False) -> Any:
    """All entries of a vector of static length, one after the other; or the indices of all rows, with their mask."""
    if as_tuple:
        return where(condition)
    if condition.ndim != 1 or not isinstance(condition.shape[0], int):
        return NotImplemented
    bound = getattr(condition, "_graphprune_bound", condition.shape[0])
    return [Entry(index) for index in range(min(bound, condition.shape[0]))]


def where(condition: Tensor, *branches: Any, **named: Any) -> Any:
    if branches or named:
        return NotImplemented
    mask = condition.reshape(-1) != 0
    shape, result = condition.shape, []
    for dim, size in enumerate(shape):
        line = torch.arange(size, device=condition.device)
        line = line.view([-1 if d == dim else 1 for d in range(len(shape))])
        result.append(tag(line.expand(shape).reshape(-1), Rows(mask, shape=tuple(shape), dim=dim)))
    return tuple(result)


def pick(tensor: Tensor, index: Any) -> Any:
    """`x[condition]` for a condition on rows: all rows, with their mask."""
    if not is_condition(index) or not isinstance(tensor, Tensor):
        return NotImplemented
    return tag(plain(tensor), Rows(index))


def put(tensor: Tensor, index: Any, value: Any) -> Any:
    """`x[condition] = rows` for rows that the same condition picked: they are put where it holds."""
    if not is_condition(index) or not is_picked(value):
        return NotImplemented
    if rows_of(value).mask is not index:
        raise CaptureError("cannot trace rows put elsewhere than where they were picked")
    return tensor.copy_(torch.where(index.view([-1] + [1] * (tensor.ndim - 1)), plain(value), tensor))


def is_condition(index: Any) -> bool:
    """Say whether this is a traced truth value for each row."""
    traced = isinstance(index, (FakeTensor, FunctionalTensor)) and getattr(index, "constant", None) is None
    return traced and index.dtype == torch.bool and index.ndim == 1


def index_add(target: Tensor, dim: int, index: Tensor, source: Tensor, **options: Any) -> Any:
    return target + added(index, dim, source, options) if is_picked(index) else NotImplemented


def index_add_(target: Tensor, dim: int, index: Tensor, source: Tensor, **options: Any) -> Any:
    return target.add_(added(index, dim, source, options)) if is_picked(index) else NotImplemented


def added(index: Tensor, dim: int, source: Tensor, options: Any) -> Tensor:
    """What is added at each index: all rows, summed over what else the condition ran over; unpicked rows are zero."""
    rows = rows_of(index)
    if dim != 0 or options or not rows.shape:
        raise CaptureError("cannot trace what is added to columns that are picked by value")
    dense = zeroed(source, rows.mask).view(*rows.shape, *source.shape[1:])
    others = [d for d in range(len(rows.shape)) if d != rows.dim]
    return dense.sum(others) if others else dense


def plain(tensor: Tensor) -> Tensor:
    """The same tensor without what it stands for."""
    return tensor.detach()


def zeroed(source: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask.view([-1] + [1] * (source.ndim - 1)), source, torch.zeros((), dtype=source.dtype))


def tolist(counts: Tensor) -> Any:
    """The entries of a vector of static length, each known by its place."""
    if counts.ndim != 1 or not isinstance(counts.shape[0], int) or counts.dtype.is_floating_point:
        return NotImplemented
    return [Count(counts, index) for index in range(counts.shape[0])]


def split(tensor: Tensor, sizes: Any, dim: int = 0) -> Any:
    """Parts of computed sizes: all rows, each time with the mask of one part."""
    if not isinstance(sizes, (list, tuple)) or not all(isinstance(size, Count) for size in sizes) or dim != 0:
        return NotImplemented
    ends = sizes[0].counts.cumsum(0)
    row = torch.arange(tensor.shape[0], device=tensor.device)
    part = (row[:, None] >= ends[None, :]).sum(1)  # how many parts end before this row
    return [tag(plain(tensor), Rows(part == index, index, len(sizes))) for index in range(len(sizes))]


def cat(tensors: Sequence[Tensor], dim: int = 0, **options: Any) -> Any:
    """All parts of a split put together again: every row as its own part computed it."""
    found = [rows_of(tensor) for tensor in tensors]
    if not found or any(rows is None for rows in found):
        return NotImplemented
    if dim != 0 or [rows.part for rows in found] != list(range(found[0].parts)):
        raise CaptureError("cannot trace a concatenation of some parts of a split by computed sizes")
    total = zeroed(plain(tensors[0]), found[0].mask)
    for tensor, rows in zip(tensors[1:], found[1:], strict=True):
        total = total + zeroed(plain(tensor), rows.mask)
    return total


_REPLACED: dict[str, Callable[..., Any]] = {
    "nonzero": nonzero,
    "where": where,
    "__getitem__": pick,
    "__setitem__": put,
    "index_add": index_add,
    "index_add_": index_add_,
    "split": split,
    "cat": cat,
}
