"""Stored weights: tensors that are kept as their file has them and are widened, one at a time, where they are read.

They are of the device that computes, and their values stay on the processor: what is read goes there for its operator.

A graph of them computes what the graph of the widened tensors does: every operator gets the wide values, and they are
gone when it is done. Autograd keeps the stored tensor for backward, not the wide one. What only looks at a weight
otherwise, such as a transposition, is a stored weight again; so is what picks rows and columns of one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from graphprune.errors import InvariantError
from graphprune.weights.mapping import expect, release
from graphprune.weights.products import PRODUCTS

_aten = torch.ops.aten

# The same memory seen otherwise: the result is stored as the weight is.
_VIEWS = frozenset({
    _aten.detach.default, _aten.alias.default, _aten.t.default, _aten.transpose.int, _aten.permute.default,
    _aten.view.default, _aten._unsafe_view.default, _aten.slice.Tensor, _aten.select.int, _aten.unsqueeze.default,
    _aten.squeeze.dim, _aten.expand.default, _aten.narrow.default,
})  # fmt: skip
_PICKS = frozenset({_aten.index_select.default})


@final
class Stored(Tensor):
    """A tensor of `dtype` on `device` whose values are those of `held`, which has another type or lies elsewhere.

    `mapped` says that its memory is a file's.
    """

    held: Tensor
    mapped: bool

    @staticmethod
    def __new__(
        cls, held: Tensor, dtype: torch.dtype, mapped: bool = False, device: torch.device | None = None
    ) -> Self:
        made: Self = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=dtype,
            device=held.device if device is None else device,
        )
        made.held, made.mapped = held, mapped
        return made

    def like(self, held: Tensor, mapped: bool = False) -> "Stored":
        """Another one of the same type and device."""
        return Stored(held, self.dtype, mapped, self.device)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Stored({tuple(self.shape)}, {self.dtype}, held as {self.held.dtype}{', mapped' * self.mapped})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            wide = widen(self).clone()
            parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(wide, self.requires_grad) if parameter else wide
        return memo[id(self)]  # type: ignore[no-any-return]

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operator: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, Stored):
            if operator in _VIEWS:
                return first.like(operator(first.held, *args[1:], **kwargs), first.mapped)
            if operator in _PICKS:
                return first.like(done(first, operator(first.held, *beside(first, args[1:]), **kwargs)))
            if operator is _aten._to_copy.default:
                told = {"dtype": first.dtype, "device": first.device, **kwargs}
                return done(first, operator(first.held, *args[1:], **told))
            if operator is _aten.embedding.default:
                rows = operator(first.held, *beside(first, args[1:]), **kwargs)
                return done(first, rows).to(first.device).to(first.dtype)
            if operator._schema.is_mutable:
                raise InvariantError(f"{operator} would change a weight that is only stored; make it real first")
        return compute(operator, args, kwargs)


def beside(weight: Stored, args: Sequence[Any]) -> Sequence[Any]:
    """Arguments such as indices, where the weight's values are."""
    return [each.to(weight.held.device) if isinstance(each, Tensor) else each for each in args]


def compute(operator: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operator on the wide values of the weights among its arguments: a product a part at a time."""
    product = PRODUCTS.get(operator)
    if product is not None and isinstance(args[-1], Stored) and not kwargs:
        *others, weight = args
        others = [widen(each) if isinstance(each, Stored) else each for each in others]
        return done(weight, product(*others, weight.held, weight.dtype))
    found: list[Stored] = []

    def read(weight: Stored) -> Tensor:
        found.append(weight)
        return widen(weight)

    result = operator(*tree_map_only(Stored, read, args), **tree_map_only(Stored, read, dict(kwargs)))
    for weight in found:
        done(weight, None)
    return result


def widen(weight: Stored) -> Tensor:
    """The values in the type and on the device that the weight has; the memory itself where it is there in that type.

    They travel as they are stored, which is half of what they are when they are wide.
    """
    return weight.held.to(weight.device).to(weight.dtype)


def done(weight: Stored, result: Any) -> Any:
    """What was computed of a weight, whose memory may go back to its file."""
    if weight.mapped:
        release(weight.held)
    return result


def look_ahead(tensors: Iterable[Tensor]) -> None:
    """Have the system read stored weights that are needed soon while others are computed with."""
    for tensor in tensors:
        if isinstance(tensor, Stored) and tensor.mapped:
            expect(tensor.held)


def give_back(tensor: Tensor) -> None:
    """Let a stored weight's memory go back to its file."""
    if isinstance(tensor, Stored):
        done(tensor, None)


def store(tensor: Tensor, dtype: torch.dtype, mapped: bool = False) -> Tensor:
    """A tensor, a parameter as one, that has this type and is stored as it is."""
    made = Stored(tensor.detach(), dtype, mapped)
    return torch.nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else made


def real(tensor: Tensor) -> Tensor:
    """A tensor with memory of its own type, where it is: itself, unless it is a stored weight."""
    if not isinstance(tensor, Stored):
        return tensor
    made: Tensor = done(tensor, widen(tensor).clone())
    return torch.nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else made


def stored_on(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    """A stored weight as one of another device and type, its values where they are; None for other tensors."""
    if not isinstance(tensor, Stored):
        return None
    made = Stored(tensor.held, dtype, tensor.mapped, device)
    return torch.nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else made


def memory_of(tensor: Tensor) -> Tensor:
    """The tensor whose memory a tensor has: itself, or what a stored weight is held as."""
    return tensor.held if isinstance(tensor, Stored) else tensor


def narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in a type; for a stored weight of that very type its memory, without a copy, on the processor."""
    if isinstance(tensor, Stored):
        return tensor.held if is_held_in(tensor, dtype) else tensor.detach().to(dtype)
    return tensor.detach().to(dtype)


def any_stored(tensors: Iterable[Tensor]) -> bool:
    """Whether some of these tensors are stored weights."""
    return any(isinstance(tensor, Stored) for tensor in tensors)


def is_held_in(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor is a weight that is stored in this type, and so exact in it."""
    return isinstance(tensor, Stored) and tensor.held.dtype == dtype
