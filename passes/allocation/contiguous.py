"""Contiguous allocation: one run of layers goes, the one that is missed least."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from graphprune.analysis.groups import BLOCKS, Branch
from graphprune.budget.budgets import cost_of
from graphprune.errors import BudgetError, UsageError
from graphprune.pruning.interfaces import Allocation, Allotment, Scene
from graphprune.pruning.layer_runs import Run, block_runs, find_runs, join_parallel, measure_angles


@final
@dataclass(frozen=True)
class Contiguous(Allocation):
    """Drop one run of neighbouring layers or branches: of the shortest runs that meet the budget, the least missed one.

    `by=scores` misses the sum of the scores inside, `by=angular` the angle between the stream before and behind the run
    at the last token, a mean over rows (arXiv 2403.17887). Encoder and decoder are two streams, and no run is in both.
    One layer of the model stays at least.
    """

    name: ClassVar[str] = "contiguous"
    needs_data: ClassVar[bool] = True
    by: Literal["scores", "angular"] = "scores"

    def keep(self, scene: Scene, scores: Mapping[str, Tensor]) -> Allotment:
        if not scene.candidates or any(group.kind not in BLOCKS for group in scene.candidates):
            raise UsageError("contiguous drops runs of layers alone; use --prune layers or --prune blocks")
        parts = join_parallel(block_runs(scene.groups, scene.candidates))
        cost, sizes = cost_of(scene.groups, scene.budget), scene.groups.sizes()
        whole = {group.id: 1 for group in scene.candidates}
        least = cost(sizes)
        if least <= scene.budget.target:
            return Allotment(whole)
        for length in range(1, len(parts)):
            runs = find_runs(scene.graph, scene.groups, parts, length)
            costs = {run: cost({**sizes, **dict.fromkeys(run.ids, 0)}) for run in runs}
            least = min([least, *costs.values()])
            fitting = [run for run in runs if costs[run] <= scene.budget.target]
            if fitting:
                return Allotment({**whole, **dict.fromkeys(self.choose(scene, fitting, scores).ids, 0)})
        show = scene.budget.quantity.show
        raise BudgetError(
            f"the target of {show(scene.budget.target)} is out of reach: without the costliest run of "
            f"{max(0, len(parts) - 1)} of {len(parts)} {scene.candidates[0].kind} {show(least)} are left; prune widths "
            "instead, or raise the target"
        )

    def choose(self, scene: Scene, runs: Sequence[Run], scores: Mapping[str, Tensor]) -> Run:
        """The run that is missed least, the first of equals."""
        if self.by == "angular":
            missed = measure_angles(scene, runs, f"{self.name}{{by=angular}}")
        else:
            missed = [sum(mean_score(part, scores) for part in run.parts) for run in runs]
        return runs[min(range(len(runs)), key=lambda place: (missed[place], place))]


def mean_score(part: Sequence[Branch], scores: Mapping[str, Tensor]) -> float:
    return sum(float(scores[branch.id]) for branch in part) / len(part)
