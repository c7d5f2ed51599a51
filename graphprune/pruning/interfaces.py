"""The plug-in kinds of pruning: importance scores units, allocation turns scores into counts, compensation repairs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Optional

import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Group, Groups
from graphprune.bounds import require_limits
from graphprune.budget.budgets import Budget, cost_of
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Edit
from graphprune.pruning.signals.stream_change import block_influence
from graphprune.running.inputs import Batch, split_parts
from graphprune.running.loss import Loss


def unheard(_done: int, _total: int) -> None:
    """Progress that nobody listens to."""


def unnoted(_text: str) -> None:
    """A note that nobody reads."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What every part of a method may look at: one round of pruning, before anything is cut.

    `groups` are all groups of `graph`, `candidates` those that may shrink. Residual branches and whole layers are
    candidates of one unit, of the kinds `blocks` and `layers`, without slots; the branches of a layer have one `tie`.
    `budget` is what the round may cost, `widths` are the units that each candidate had in the source, where that is not
    the present number, and `ids` its id there, where that is not the present one. `batches` are token ids
    [rows, sequence] of a language model; a graph without logits needs batches of named tensors and a `loss`. `repair`
    is what follows the cut. Whatever is random comes from `seed`, what takes long tells `progress` (done, total), and
    keeps what it needs to go on after a kill in `folder`, None where nothing is kept. What the user should know is told
    to `note`. `memo` is what this part left behind in the last round, under the roots of ids. `room` are the bytes that
    the run may take, None where nobody knows. `parts` are the scores that the importance gave on each part of the text,
    [parts, units] under the ids of candidates, where the allocation compares them.
    """

    graph: Graph
    groups: Groups
    candidates: tuple[Group, ...]
    budget: Budget
    batches: Sequence[Batch] = ()
    loss: Loss | None = None
    widths: Mapping[str, int] = field(default_factory=dict)
    ids: Mapping[str, str] = field(default_factory=dict)
    memo: Mapping[str, Any] = field(default_factory=dict)
    repair: Optional["Compensation"] = None
    seed: int = 0
    progress: Callable[[int, int], None] = unheard
    note: Callable[[str], None] = unnoted
    folder: Path | None = None
    room: int | None = None
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def root(self, id: str) -> str:
        """The id that a candidate has in the source, which no cut changes."""
        return self.ids.get(id, id)

    def full(self, group: Group) -> int:
        """The units that a candidate had in the source."""
        return self.widths.get(group.id, group.units)


def view(
    graph: Graph,
    candidates: Sequence[Group] | None = None,
    batches: Sequence[Batch] = (),
    loss: Loss | None = None,
    budget: Budget | None = None,
) -> Scene:
    """The scene of a graph by itself: every group that may shrink is a candidate, and nothing has to."""
    groups = analyze(graph)
    chosen = groups.prunable() if candidates is None else tuple(candidates)
    whole = budget or Budget(max(1, cost_of(groups, Budget(1))(groups.sizes())))
    return Scene(graph, groups, chosen, whole, batches, loss)


@dataclass(frozen=True)
class Importance(ABC):
    """How much each unit matters. A subclass is a final frozen dataclass whose fields are its options.

    One that `searches` looks for what is best at the budget: it takes so long that a run keeps what it needs to go on.
    """

    name: ClassVar[str]
    needs_data: ClassVar[bool]
    searches: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_limits(self, self.name)

    @abstractmethod
    def score(self, scene: Scene) -> dict[str, Tensor]:
        """Score the units of each candidate: its id -> float32 tensor [units] on the CPU, larger is kept first.

        No candidate is a block here. Batches are ignored where `needs_data` is False. The graph is left as it was.
        """

    @property
    def averaged_parts(self) -> int:
        """The number of parts of the text whose scores' mean the score is; 0 where it is no such mean."""
        return 0

    def score_parts(self, scene: Scene, count: int) -> dict[str, Tensor]:
        """Score the units on each of `count` parts of the text, or on fewer where it has fewer samples: [parts, units].

        Without a method's own, each part is scored as if it were all of the text.
        """
        found = [self.score(replace(scene, batches=part)) for part in split_parts(scene.batches, count)]
        return {g.id: torch.stack([each[g.id] for each in found]) for g in scene.candidates if found}

    def score_blocks(self, scene: Scene) -> dict[str, Tensor]:
        """Score each candidate, all of which are residual branches or layers: [1], larger is kept first.

        Without a method's own, by how much they turn the stream (ShortGPT, arXiv 2403.03853).
        """
        return block_influence(scene.graph, scene.groups, scene.candidates, scene.batches, scene.note)


@dataclass(frozen=True)
class Allotment:
    """The count that each candidate keeps, and what the allocation wants to know again in the next round."""

    counts: Mapping[str, int]
    memo: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Allocation(ABC):
    """How many units each group keeps. A subclass is a final frozen dataclass whose fields are its options.

    One that `searches` takes so long that a run keeps what it needs to go on.
    """

    name: ClassVar[str]
    needs_data: ClassVar[bool] = False
    searches: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_limits(self, self.name)

    @property
    def compared_parts(self) -> int:
        """On how many parts of the text the units are scored for the scene that `keep` is given; 0 for none."""
        return 0

    @abstractmethod
    def keep(self, scene: Scene, scores: Mapping[str, Tensor]) -> Allotment:
        """Choose counts whose cost meets the budget; a block keeps 1 or 0. Raises BudgetError where no counts do."""


@dataclass(frozen=True)
class Compensation(ABC):
    """How the weights that are left make up for those that went. Subclasses are final frozen dataclasses.

    One that `reshapes` adds operators, so that no class of the source's own computes the result.
    """

    name: ClassVar[str]
    needs_data: ClassVar[bool] = True
    reshapes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_limits(self, self.name)

    def edits(self, scene: Scene) -> tuple[Edit, ...]:
        """The edits that this needs, such as a bias to fill; they are made, and counted, before anything is cut."""
        return ()

    def spared(self, graph: Graph) -> Mapping[str, str]:
        """Why groups of the edited graph stay whole for this, by their ids."""
        return {}

    @abstractmethod
    def compensate(self, dense: Graph, cut: Graph, scene: Scene) -> Graph:
        """Return `cut` with new values in some of its parameters.

        `dense` is the graph that `cut` was made from, by the plan `cut.lineage.plan`, edits included; nodes that are in
        both have the same names. The scene is that of `dense`. Neither graph is changed.
        """
