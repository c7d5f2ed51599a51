"""A stand-in for a GPU: a device of torch whose tensors are held in memory and that refuses what a GPU would refuse.

Operators that mix its tensors with those of the CPU fail as they do on CUDA, and so does numpy. What runs here needs no
change on a GPU; kernels, precision and speed are not seen. A process that has it has it for good, so that tests ask for
it in a process of their own (`pytest -m gpu --stand-in`).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from graphprune.weights.stored import Stored, any_stored

NAME = "standin"
_aten = torch.ops.aten
# What takes tensors of both sides on CUDA as well: copies, and indices that lie on the CPU.
_MIXES = (_aten.copy_, _aten._to_copy, _aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_)


class Held(Tensor):
    """A tensor of the stand-in; `held` has its values on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "Held":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=f"{NAME}:0",
        )
        made.held = held
        return made  # type: ignore[no-any-return]

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else object.__format__(self, spec)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(func, args, dict(kwargs or {}))


class Factories(TorchDispatchMode):
    """Makes tensors on the stand-in where an operator without any tensor of its asks for it.

    Weights that are only stored, which are of one side with values on the other, answer for themselves.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any_stored(leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)):
            with self:
                return Stored.__torch_dispatch__(func, types, args, kwargs)
        return call(func, args, dict(kwargs or {}))


def call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on what is held, and give its results to the side that they are for."""
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = any(isinstance(tensor, Held) for tensor in tensors)
    if here:
        require_one_side(func, tensors)
    if kwargs.get("device") is not None:
        here = torch.device(kwargs["device"]).type == NAME
        kwargs["device"] = torch.device("cpu")
    known = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, Held)}
    inner = pytree.tree_map(lambda leaf: leaf.held if isinstance(leaf, Held) else leaf, (args, kwargs))
    result = func(*inner[0], **inner[1])
    if func.overloadpacket is _aten.copy_:
        return args[0]
    return pytree.tree_map(lambda leaf: outside(leaf, known, here), result)


def outside(value: Any, known: dict[int, "Held"], here: bool) -> Any:
    """A result as the caller sees it; what was written in place is the tensor that was given."""
    if not here or not isinstance(value, Tensor):
        return value
    return known[id(value)] if id(value) in known else Held(value)


def require_one_side(func: Any, tensors: list[Tensor]) -> None:
    """Raise RuntimeError, as CUDA does, where tensors of the CPU, but for numbers, meet those of the device."""
    if func.overloadpacket in _MIXES:
        return
    if any(not isinstance(tensor, Held) and tensor.dim() > 0 for tensor in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} met {NAME}:0 and cpu")


class _Module:
    """What torch asks of a kind of device."""

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.empty(4, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


@contextlib.contextmanager
def present() -> Iterator[torch.device]:
    """The stand-in, there until the process ends; tensors are made on it within the context."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) is then made by an operator as well
    with Factories():
        yield torch.device(NAME, 0)
