"""Recording: the calls that a model makes in one run on fake tensors, and in which block it makes each."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from graphprune.models.contract import Contract
from graphprune.models.patches import Patches
from graphprune.models.trial_runs import fake_run

Owner = tuple[str, int] | None  # the path of a list of blocks, and the index of the block; None outside of all blocks
_LARGEST = 65536  # elements of a constant that are compared
_aten = torch.ops.aten
_SAME = {_aten.lift_fresh.default, _aten.detach.default, _aten.detach_.default, _aten.alias.default}  # their operand


class Token(NamedTuple):
    """A tensor by what it is: the `result` of a call, a `tensor` of the model, an `input`, a `literal`, an `object`."""

    kind: str
    what: Any
    place: Any = ()


@dataclass(frozen=True)
class Stack:
    """A container whose members are called one after the other: where it is in the model, and its members."""

    path: str
    container: nn.Module

    @property
    def members(self) -> list[nn.Module]:
        return list(self.container)  # type: ignore[call-overload,no-any-return]


@dataclass(frozen=True)
class Call:
    """One ATen call: who made it, its operands as tokens, and the types of its results."""

    owner: Owner
    target: Any
    operands: Any
    results: Any


@dataclass(frozen=True)
class Recording:
    """All calls in order, what was returned by contract name, and the calls of blocks: owner and calls made before."""

    calls: tuple[Call, ...]
    returned: Mapping[str, Token]
    entered: tuple[tuple[Owner, int, int], ...]


@dataclass
class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every call that reaches it; tensors are known by the call that made them."""

    tokens: dict[int, Token]
    kept: list[Any] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    entered: list[tuple[Owner, int, int]] = field(default_factory=list)
    owner: Owner = None

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operands = self.read((args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        self.kept.append((args, kwargs, result))  # no id is used twice
        if func in _SAME:
            self.tokens[id(result)] = operands[0][0]
        elif func is not torch.ops.prim.device.default:
            self.calls.append(Call(self.owner, func, operands, self.write(result, (0,))))
        return result

    def read(self, value: Any) -> Any:
        """The token of a tensor, and plain values with their type, since True is not 1 here."""
        if isinstance(value, Tensor):
            return self.tokens.get(id(value)) or literal(value)
        if isinstance(value, (list, tuple)):
            return tuple(map(self.read, value))
        if isinstance(value, dict):
            return tuple((key, self.read(value[key])) for key in sorted(value))
        return type(value), value

    def write(self, value: Any, place: tuple[int, ...]) -> Any:
        """Remember the tensors of a result; return their types."""
        if isinstance(value, (list, tuple)):
            return tuple(self.write(part, (*place, index)) for index, part in enumerate(value))
        if not isinstance(value, Tensor):
            return type(value)
        self.tokens[id(value)] = Token("result", len(self.calls), place)
        return value.dtype, tuple(value.shape)

    def enter(self, owner: Owner) -> None:
        assert self.owner is None, "lists of blocks are not nested"
        self.owner = owner

    def leave(self, first: int) -> None:
        self.entered.append((self.owner, first, len(self.calls)))
        self.owner = None


def literal(tensor: Tensor) -> Token:
    """A tensor that no call made: its value where it is a small constant, else the very object."""
    if tensor.is_meta or type(tensor) is not Tensor or tensor.numel() > _LARGEST:
        return Token("object", id(tensor))
    with unset_fake_temporarily():
        return Token("literal", (tensor.dtype, tuple(tensor.shape)), str(tensor.tolist()))


def record(
    module: nn.Module,
    contract: Contract,
    stacks: Sequence[Stack],
    patches: Patches,
) -> Recording:
    """Run a module on its contract's inputs as fake tensors. Raises whatever the model raises."""
    with patches(), fake_run(module) as fake:
        inputs = {name: fake.from_tensor(tensor) for name, tensor in contract.inputs.items()}
        tokens: dict[int, Token] = {id(tensor): Token("input", name) for name, tensor in inputs.items()}
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            tokens.setdefault(id(tensor), Token("tensor", name))
        recorder = Recorder(tokens)
        with watch(stacks, recorder), recorder:
            outputs = module(*inputs.values())
    names = contract.outputs or tuple(f"output.{index}" for index in range(len(outputs)))
    returned = {name: recorder.read(tensor) for name, tensor in zip(names, outputs, strict=True)}
    return Recording(tuple(recorder.calls), returned, tuple(recorder.entered))


@contextlib.contextmanager
def watch(stacks: Sequence[Stack], recorder: Recorder) -> Iterator[None]:
    """Tell the recorder when a block begins and ends."""
    began: list[int] = []

    def enter(owner: Owner) -> None:
        began.append(len(recorder.calls))
        recorder.enter(owner)

    handles = []
    for stack in stacks:
        for index, member in enumerate(stack.members):
            owner = (stack.path, index)
            handles.append(member.register_forward_pre_hook(lambda *_, owner=owner: enter(owner)))
            handles.append(member.register_forward_hook(lambda *_: recorder.leave(began.pop())))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
