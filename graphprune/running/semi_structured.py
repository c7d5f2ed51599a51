"""Two zeros in each four inputs, used by a GPU: torch's semi-structured tensors in the place of dense weights."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from graphprune.errors import UsageError
from graphprune.running.devices import without_gpu
from graphprune.weights.patterns import Grouped

TWO_OF_FOUR = Grouped(2, 4)
_HALVES = (torch.float16, torch.bfloat16)
_CAPABLE = (8, 0)  # compute capability of the first tensor cores that skip zeros


@final
@dataclass(frozen=True)
class Packed:
    """The weights that were packed, and why each other linear weight stays dense, by name."""

    packed: tuple[str, ...]
    dense: Mapping[str, str]


def pack_semi_structured(model: nn.Module) -> Packed:
    """Pack, in place, the weights of a model on a GPU that have two zeros at least in each four inputs.

    What runs afterwards is the same model: `nn.Linear` multiplies by `torch.sparse.SparseSemiStructuredTensor`, of
    9 bytes where 16 were. For inference: packed weights have no gradients, and `save_pretrained` cannot write them.
    Raises UsageError without a GPU that can, and where no weight is so.
    """
    on_gpu = [each for each in model.parameters() if each.is_cuda]
    if not on_gpu:
        reason = "the model is on the processor" if torch.cuda.is_available() else without_gpu()
        raise UsageError(f"semi-structured weights are for a GPU: {reason}; load the model in bfloat16 and .to('cuda')")
    if torch.cuda.get_device_capability(on_gpu[0].device) < _CAPABLE:
        raise UsageError("semi-structured weights need a GPU of compute capability 8.0 or newer; leave them dense")
    least = (16, 16) if torch.backends.cusparselt.is_available() else (32, 64)
    dense, packed = dict[str, str](), list[str]()
    for name, linear, shared in linears(model):
        why = "another module has it too" if shared else "" if linear.weight.is_cuda else "it is not on the GPU"
        why = why or obstacle(linear.weight, least)
        if why:
            dense[name] = why
            continue
        linear.weight = nn.Parameter(pack(linear.weight.detach()), requires_grad=False)
        packed.append(name)
    if not packed:
        raise UsageError(
            f"no weight can be packed: {', '.join(sorted(set(dense.values())))}; compile with --pattern 2:4"
        )
    return Packed(tuple(packed), dense)


def linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear, bool]]:
    """The linear layers by their weights' names, and whether another module has the weight too."""
    modules = dict(model.named_modules())
    owners = Counter(id(own) for module in modules.values() for own in module.parameters(recurse=False))
    for name, module in modules.items():
        if isinstance(module, nn.Linear):
            yield f"{name}.weight".lstrip("."), module, owners[id(module.weight)] > 1


def obstacle(weight: Tensor, least: tuple[int, int]) -> str:
    """Why a weight [outputs, inputs], whose sizes should be multiples of `least`, cannot be packed; empty if it can."""
    if weight.dtype not in _HALVES:
        return f"{str(weight.dtype).removeprefix('torch.')} is not of 16 bits"
    if any(size % unit for size, unit in zip(weight.shape, least, strict=True)):
        return f"{weight.shape[0]} x {weight.shape[1]} is no multiple of {least[0]} x {least[1]}"
    return "" if has_two_of_four(weight) else "not two zeros in each four inputs"


def has_two_of_four(weight: Tensor) -> bool:
    """Whether no group of four neighbouring inputs has more than two that are not zero; inputs are a multiple of 4."""
    groups = (weight.detach() != 0).reshape(-1, TWO_OF_FOUR.size)
    return bool((groups.sum(-1) <= TWO_OF_FOUR.most).all())


def pack(weight: Tensor) -> Tensor:
    """A weight of two in four as torch packs it: cuSPARSELt where torch has it, else CUTLASS."""
    kinds = torch.sparse.SparseSemiStructuredTensorCUSPARSELT, torch.sparse.SparseSemiStructuredTensorCUTLASS
    kind = kinds[0] if torch.backends.cusparselt.is_available() else kinds[1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*SparseSemiStructuredTensor is in prototype stage.*")
        return kind.from_dense(weight.contiguous())
