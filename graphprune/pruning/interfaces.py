"""The plug-in kinds of pruning: importance scores units, allocation turns scores into counts, compensation repairs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from graphprune.analysis.groups import Group, Groups
from graphprune.bounds import require_limits
from graphprune.budget.budgets import Budget
from graphprune.ir.graph import Graph
from graphprune.running.inputs import Batch
from graphprune.running.loss import Loss


@dataclass(frozen=True)
class Importance(ABC):
    """How much each unit matters. A subclass is a final frozen dataclass whose fields are its options."""

    name: ClassVar[str]
    needs_data: ClassVar[bool]

    def __post_init__(self) -> None:
        require_limits(self, self.name)

    @abstractmethod
    def score(
        self, graph: Graph, groups: Sequence[Group], batches: Sequence[Batch] = (), loss: Loss | None = None
    ) -> dict[str, Tensor]:
        """Score the units of each group: group id -> float32 tensor [units] on the CPU, larger is kept first.

        `batches` are token ids [rows, sequence] of a language model; a graph without logits needs batches of named
        tensors and a `loss`. Both are ignored where `needs_data` is False. The graph is left as it was.
        """


@dataclass(frozen=True, eq=False)
class Round:
    """What an allocation may look at: one round of pruning, before anything is cut.

    `candidates` may shrink, all other groups stay. `widths` are the units that each candidate had in the source, where
    that is not the present number. `memo` is what this allocation left behind in the last round, under the ids that
    groups had then; `root` gives a group's id that never changes.
    """

    graph: Graph | None
    groups: Groups
    candidates: tuple[Group, ...]
    scores: Mapping[str, Tensor]
    budget: Budget
    batches: Sequence[Batch] = ()
    loss: Loss | None = None
    widths: Mapping[str, int] = field(default_factory=dict)
    memo: Mapping[str, Any] = field(default_factory=dict)

    def root(self, id: str) -> str:
        return self.graph.lineage.root(id) if self.graph is not None else id


@dataclass(frozen=True)
class Allotment:
    """The count that each candidate keeps, and what the allocation wants to know again in the next round."""

    counts: Mapping[str, int]
    memo: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Allocation(ABC):
    """How many units each group keeps. A subclass is a final frozen dataclass whose fields are its options."""

    name: ClassVar[str]
    needs_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_limits(self, self.name)

    @abstractmethod
    def keep(self, round: Round) -> Allotment:
        """Choose counts whose cost meets the budget. Raises BudgetError where no counts do."""


@dataclass(frozen=True)
class Compensation(ABC):
    """How the weights that are left make up for those that went. Subclasses are final frozen dataclasses."""

    name: ClassVar[str]
    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_limits(self, self.name)

    def biases(self, graph: Graph, candidates: Sequence[Group]) -> tuple[str, ...]:
        """The weights whose linear calls need a bias for this; it is added, and counted, before anything is cut."""
        return ()

    @abstractmethod
    def compensate(
        self, dense: Graph, cut: Graph, batches: Sequence[Batch], report: Callable[[int, int], None] = lambda *_: None
    ) -> Graph:
        """Return `cut` with new values in some of its parameters.

        `dense` is the graph that `cut` was made from, by the plan `cut.lineage.plan`; nodes that are in both have the
        same names. `report(done, total)` is told of progress. Neither graph is changed.
        """
