"""Selection: from counts and scores to the units that are kept."""

from collections.abc import Mapping

import torch
from torch import Tensor

from graphprune.analysis.groups import Group, Groups
from graphprune.errors import PlanError
from graphprune.ir.plan import Plan


def select(groups: Groups, counts: Mapping[str, int], scores: Mapping[str, Tensor]) -> Plan:
    """Keep the `counts[id]` units of each group with the largest scores, the lower index on a tie, in ascending order.

    A branch that keeps 0 is dropped, and with it what was chosen inside. Groups that keep everything are left out of
    the plan. Raises PlanError for a count or a score that does not fit.
    """
    by_id, branches = groups.by_id(), [branch.id for branch in groups.branches]
    dropped = tuple(id for id in branches if counts.get(id) == 0)
    cut = {id: n for id, n in counts.items() if id in by_id and n != by_id[id].units and by_id[id].block not in dropped}
    return Plan({id: top_units(by_id[id], count, scores[id]) for id, count in cut.items()}, dropped)


def top_units(group: Group, count: int, scores: Tensor) -> tuple[int, ...]:
    """The `count` best units of a group, ascending."""
    if not 1 <= count <= group.units:
        raise PlanError(f"{group.id} has {group.units} units; it cannot keep {count}")
    check_scores(group, scores)
    best = torch.argsort(scores, descending=True, stable=True)[:count]
    return tuple(sorted(best.tolist()))


def check_scores(group: Group, scores: Tensor) -> None:
    """Raise PlanError unless there is one score a unit and none is NaN."""
    if scores.shape != (group.units,):
        raise PlanError(f"{group.id} has {group.units} units but scores of shape {tuple(scores.shape)}")
    if bool(torch.isnan(scores).any()):
        raise PlanError(f"the scores of {group.id} are not numbers; check the weights and the calibration data")
