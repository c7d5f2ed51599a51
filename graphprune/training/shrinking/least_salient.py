"""The learner that shrinks: the least salient units are switched off between steps, and cut out in batches."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import BLOCKS, KINDS
from graphprune.bounds import Count, NotNegative, Share
from graphprune.budget.budgets import Budget, cost_of
from graphprune.budget.quantities import parse_quantity
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.processes import process_count
from graphprune.pruning.sparsity.bound_units import bind_units
from graphprune.pruning.stock_widths import allowed_counts
from graphprune.suggestions import check_choice
from graphprune.training.adapters import whole
from graphprune.training.learning.learner import Learner, Learning
from graphprune.training.learning.weights import Weights
from graphprune.training.options import TrainOptions
from graphprune.training.shrinking.shrinking import Aim, Seen, Shrinking

Compensate = Literal["none", "obs"]


@final
@dataclass(frozen=True)
class LeastSalient(Learner):
    """Train all weights, and let the least salient units go until the model costs `target`, in the last step.

    `least` are ids of groups that may shrink with how many units stay, `model.layers.0.mlp.up_proj.weight:0=3`;
    `target` is in units of the cost of `quantity`. Every `every` steps units are switched off, so many that the cost
    falls evenly; when they make up `batch` of it they are cut out. Saliency is a running mean that keeps `memory` of
    what it was, and that of a kind counts so many times, `residual=2`. With `compensate=obs` the weights that stay take
    over. Source: EfficientLLM, arXiv 2502.06663.
    """

    name: ClassVar[str] = "least-salient"
    least: tuple[str, ...] = ()
    target: Count = 1
    quantity: str = "parameters"
    every: Count = 1
    round_to: Count = 1
    uniform: bool = False
    memory: Share = 0.9
    compensate: Compensate = "none"
    damping: NotNegative = 0.01
    batch: Share = 0.05
    factors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.weights

    @property
    def weights(self) -> Mapping[str, float]:
        """`factors` as numbers. Raises UsageError."""
        return dict(map(read_factor, self.factors))

    def begin(self, graph: Graph, options: TrainOptions) -> Learning:
        groups = bind_units(graph, analyze(graph))
        least, known = dict(map(read_least, self.least)), groups.by_id()
        unknown = next((id for id in least if id not in known), None)
        if unknown is not None:
            raise UsageError(f"least-salient: there is no group {unknown[:80]}; `graphprune inspect` names all")
        held = next((g for g in (known[id] for id in least) if g.locked or g.kind in BLOCKS), None)
        if held is not None:
            raise UsageError(f"least-salient: {held.id} cannot shrink: {held.locked}")
        if self.compensate == "obs" and process_count() > 1:
            raise UsageError("compensate=obs looks at the tokens of one process; start one, or take compensate=none")
        budget = self.budget(graph, {graph.lineage.root(id): count for id, count in least.items()})
        cost = cost_of(groups, budget)(groups.sizes())
        if cost <= self.target:
            return Weights(whole(graph))
        if options.steps < self.every:
            raise UsageError(
                f"{options.steps} steps are fewer than every={self.every}, so nothing would go; give more tokens"
            )
        solves = self.compensate == "obs"
        aim = Aim(budget, cost, options.steps, self.every, self.memory, solves, self.damping, self.batch, self.weights)
        return Shrinking(graph, aim, Seen())

    def budget(self, graph: Graph, least: Mapping[str, int]) -> Budget:
        """What the result may cost, and what each group keeps."""
        allowed = allowed_counts(graph, analyze(graph)) if self.uniform else {}
        return Budget(
            self.target,
            round_to=self.round_to,
            uniform=self.uniform,
            allowed=allowed,
            least=least,
            quantity=parse_quantity(self.quantity),
        )


def read_least(text: str) -> tuple[str, int]:
    """A group and how many of its units stay at least. Raises UsageError."""
    id, _, count = text.rpartition("=")
    if not id or not count.isdecimal() or int(count) < 1:
        raise UsageError(f"least-salient: {text[:80]!r} is no group and the units that stay at least; write ID=12")
    return id, int(count)


def read_factor(text: str) -> tuple[str, float]:
    """A kind and how many times its saliency counts: `residual=2`. Raises UsageError."""
    kind, _, number = text.partition("=")
    check_choice("factors", kind, KINDS)
    try:
        factor = float(number)
    except ValueError:
        factor = 0.0
    if not 0 < factor < math.inf:
        raise UsageError(f"factors {text[:40]!r}: write a kind and how many times its saliency counts, residual=2")
    return kind, factor
