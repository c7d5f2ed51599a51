"""Routed-tokens importance: how many tokens of the text the router gives to each expert."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.analysis.groups import Group
from graphprune.analysis.owners import owners
from graphprune.axes.inference import Choice
from graphprune.errors import UsageError
from graphprune.ir.operators import opname
from graphprune.pruning.activations.observe import Reading, observe
from graphprune.pruning.interfaces import Importance, Scene
from graphprune.running.inputs import Batch

By = Literal["tokens", "mass"]


@final
@dataclass(frozen=True)
class RoutedTokens(Importance):
    """Score experts by the tokens that reach them, `by=tokens`, or by the shares that these give them, `by=mass`.

    A token counts once for each expert that it is given to; its shares of these sum to one. Scores of all layers are
    counts of the same tokens, so they compare. The idea of pruning experts by use is CPM-2's (arXiv 2106.10715) bridge
    to pruning; what a removed expert means is in docs/methods/experts.md.
    """

    name: ClassVar[str] = "routed-tokens"
    needs_data: ClassVar[bool] = True
    by: By = "tokens"

    def score(self, scene: Scene) -> dict[str, Tensor]:
        if not scene.batches:
            raise UsageError("routed-tokens needs calibration text; give --data")
        analysis = analyze_axes(scene.graph)
        found = {group.id: find_choices(analysis, group) for group in scene.candidates}
        readings = {
            (id, place): Reading((choice.node.name,), partial(self.count, place_owners(analysis, id, choice), choice))
            for id, choices in found.items()
            for place, choice in enumerate(choices)
        }
        sums = observe(scene.graph, readings, scene.batches, scene.progress)
        return {
            id: torch.stack([sums[id, place] for place in range(len(choices))]).sum(0).float()
            for id, choices in found.items()
        }

    def count(self, owner: Tensor, choice: Choice, batch: Batch, value: Any) -> Tensor:
        """What each unit is given of one batch: float64 [units]."""
        picks = (value[1] if isinstance(value, tuple) else value).flatten().cpu()
        shares = torch.ones(len(picks), dtype=torch.float64)
        if self.by == "mass" and isinstance(value, tuple) and choice.slots is not None:
            given = value[0].double().cpu()
            probable = opname(choice.node.all_input_nodes[0]) in ("softmax", "_softmax", "sigmoid")
            shares = (given / given.sum(-1, keepdim=True) if probable else given.softmax(-1)).flatten()
        return torch.zeros(int(owner.max()) + 1, dtype=torch.float64).index_add_(0, owner[picks], shares)


def find_choices(analysis: Analysis, group: Group) -> Sequence[Choice]:
    """The calls that pick experts of a group: those that choose among most. Raises UsageError for other groups."""
    algebra = analysis.inference.algebra
    atom = algebra.find(analysis.atoms[group.id])
    holding = [c for c in analysis.inference.choices if c.picks and atom in map(algebra.find, algebra.atoms(c.axis))]
    if group.kind != "experts" or not holding:
        raise UsageError(
            f"routed-tokens can not score {group.id} ({group.kind}), which no router chooses from; take --prune experts"
        )
    largest = max(int(str(algebra.size(c.axis))) for c in holding)
    return [c for c in holding if int(str(algebra.size(c.axis))) == largest]


def place_owners(analysis: Analysis, id: str, choice: Choice) -> Tensor:
    """The unit that each entry of what is chosen from belongs to."""
    algebra = analysis.inference.algebra
    atom = algebra.find(analysis.atoms[id])
    found = owners(algebra, choice.axis, {})
    return torch.from_numpy(next(owner for each, owner in found.items() if algebra.find(each) == atom))
