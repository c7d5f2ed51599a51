"""Patterns: which entries of a weight are zero for good, known beside it so that whatever changes it keeps its zeros.

What is kept of a weight is a companion of it: truth values in its shape, under a kind that says the pattern. The zeros
themselves say the same: `kept_by_zeros` reads them from a checkpoint.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from graphprune.errors import InvariantError, UsageError

KEPT = "kept"  # the kind of companions, and how the kinds of those begin that are of groups
Per = Literal["matrix", "row"]
Companions = Mapping[str, Mapping[str, Tensor]]


@final
@dataclass(frozen=True)
class Share:
    """A share of the entries is zero, wherever they are: of all of them, or of each row."""

    zeros: float
    per: Per = "matrix"

    def __str__(self) -> str:
        return f"{100 * self.zeros:g}%"

    def keep(self, scores: Tensor) -> Tensor:
        """The entries with the largest scores [outputs, inputs]; of equal ones those that stand first."""
        rows = scores if self.per == "row" else scores.reshape(1, -1)
        return keep_largest(rows, rows.shape[1] - round(self.zeros * rows.shape[1])).view_as(scores)

    def kind(self, dim: int) -> str:
        """The kind of companions of a weight whose inputs are along this dimension."""
        return KEPT


@final
@dataclass(frozen=True)
class Grouped:
    """Of each `size` inputs in a row, `most` at most are not zero: 2:4 is what GPUs multiply by at twice the speed."""

    most: int
    size: int

    def __str__(self) -> str:
        return f"{self.most}:{self.size}"

    def keep(self, scores: Tensor) -> Tensor:
        """The entries with the largest scores [outputs, inputs] of each group; of equal ones those that stand first."""
        parts = scores.reshape(len(scores), -1, self.size).unbind(-1)
        kept = []
        for place, own in enumerate(parts):
            before = [other >= own if i < place else other > own for i, other in enumerate(parts) if i != place]
            kept.append(torch.stack(before).sum(0) < self.most)
        return torch.stack(kept, -1).view_as(scores)

    def kind(self, dim: int) -> str:
        """The kind of companions of a weight whose inputs are along this dimension."""
        return f"{KEPT}.{self}.{dim}"


Pattern = Share | Grouped


def parse_pattern(text: str, per: Per = "matrix") -> Pattern:
    """`50%` or `0.5` is a share of zeros, `2:4` two of each four inputs. Raises UsageError."""
    groups = re.fullmatch(r"(\d{1,3}):(\d{1,3})", text)
    if groups is not None:
        most, size = int(groups[1]), int(groups[2])
        if 0 < most < size:
            return Grouped(most, size)
    number = re.fullmatch(r"(\d+\.?\d*|\.\d+)(%?)", text)
    share = float(number[1]) / (100 if number[2] else 1) if number else 0.0
    if not 0 < share < 1:
        raise UsageError(
            f"a pattern is a share of zeros such as 50%, or a part of each group such as 2:4, not {text[:40]}"
        )
    return Share(share, per)


def keep_largest(scores: Tensor, count: int) -> Tensor:
    """The `count` largest scores of each row; of equal ones those that stand first."""
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    least = scores.kthvalue(scores.shape[1] - count + 1, dim=1, keepdim=True).values
    above, equal = scores > least, scores == least
    room = count - above.sum(1, keepdim=True)
    return above | (equal & (equal.cumsum(1) <= room))


def groups_along(kind: str) -> tuple[Grouped, int] | None:
    """The pattern of groups that a kind of companions stands for, and the dimension of inputs; None for others."""
    found = re.fullmatch(rf"{KEPT}\.(\d+):(\d+)\.(\d)", kind)
    return (Grouped(int(found[1]), int(found[2])), int(found[3])) if found else None


def is_pattern(kind: str) -> bool:
    """Whether companions of this kind say which entries are kept."""
    return kind == KEPT or groups_along(kind) is not None


def kept_entries(companions: Companions) -> dict[str, Tensor]:
    """What is kept of each weight that has a pattern, by its name."""
    return {name: kept for kind, part in companions.items() if is_pattern(kind) for name, kept in part.items()}


def without_patterns(companions: Companions) -> dict[str, Mapping[str, Tensor]]:
    return {kind: part for kind, part in companions.items() if not is_pattern(kind)}


def only_patterns(companions: Companions) -> dict[str, Mapping[str, Tensor]]:
    return {kind: part for kind, part in companions.items() if is_pattern(kind)}


def broken_groups(companions: Companions) -> Iterator[tuple[str, Grouped]]:
    """The weights that keep more of a group than their pattern lets them."""
    for kind, part in companions.items():
        found = groups_along(kind)
        for name, kept in part.items() if found else ():
            assert found is not None
            if not fits_groups(kept, *found):
                yield name, found[0]


def fits_groups(kept: Tensor, pattern: Grouped, dim: int) -> bool:
    """Whether no group along a dimension keeps more than it may."""
    inputs = kept.movedim(dim, -1)
    if inputs.shape[-1] % pattern.size:
        return False
    return bool((inputs.reshape(*inputs.shape[:-1], -1, pattern.size).sum(-1) <= pattern.most).all())


def check_zeros(tensors: Mapping[str, Tensor], companions: Companions) -> None:
    """Raise InvariantError, with its name, for a weight that is not zero where its pattern says so."""
    for name, kept in kept_entries(companions).items():
        weight = tensors.get(name)
        if weight is None or weight.device.type == "meta":
            continue
        if weight.shape != kept.shape or bool((weight.detach().to(kept.device) * ~kept).any()):
            raise InvariantError(f"{name} is not zero everywhere that its pattern says")
    for name, pattern in broken_groups(companions):
        raise InvariantError(f"{name} keeps more than {pattern} of its inputs")


def kept_by_zeros(weight: Tensor) -> Tensor:
    """What is kept of a weight, by its zeros."""
    return weight.detach() != 0
