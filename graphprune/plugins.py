"""The plug-in kinds that choose what is kept: importance scores units, allocation turns scores into counts."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graphprune.budget import Budget
from graphprune.groups import Group, Groups
from graphprune.ir import Graph
from graphprune.loss import Batch, Loss


@dataclass(frozen=True)
class Importance(ABC):
    """How much each unit matters. A subclass is a final frozen dataclass whose fields are its options."""

    name: ClassVar[str]
    needs_data: ClassVar[bool]

    @abstractmethod
    def score(
        self, graph: Graph, groups: Sequence[Group], batches: Sequence[Batch] = (), loss: Loss | None = None
    ) -> dict[str, Tensor]:
        """Score the units of each group: group id -> float32 tensor [units] on the CPU, larger is kept first.

        `batches` are token ids [rows, sequence] of a language model; a graph without logits needs batches of named
        tensors and a `loss`. Both are ignored where `needs_data` is False. The graph is left as it was.
        """


@dataclass(frozen=True)
class Allocation(ABC):
    """How many units each group keeps. A subclass is a final frozen dataclass whose fields are its options."""

    name: ClassVar[str]

    @abstractmethod
    def keep(
        self, groups: Groups, candidates: Sequence[Group], scores: Mapping[str, Tensor], budget: Budget
    ) -> dict[str, int]:
        """The count that each candidate keeps, such that the cost meets the budget. Raises BudgetError."""
