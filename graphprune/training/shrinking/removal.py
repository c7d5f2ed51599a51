"""Removal: which units go next, one least step after the other, until the model costs as much as it may.

A step takes a width down by one of its levels: one unit of a group, or as many as widths are multiples of, or one of
each group of a tie. The step goes whose saliency for what it saves is the least, whatever its kind; near the target one
that would save more than is asked for waits, as long as a smaller one is there, so that the end lies within one unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.analysis.cost import Polynomial
from graphprune.budget.budgets import Width
from graphprune.budget.solver import terms_with


@dataclass(frozen=True)
class Step:
    """Units that go together, by group; what goes with them in units of the cost, and their saliency for each of it."""

    units: Mapping[str, tuple[int, ...]]
    kind: str
    saved: int
    saliency: float


@dataclass(frozen=True, eq=False)
class Course:
    """What steps are made of: the widths that may shrink, and the cost over the sizes of everything."""

    widths: tuple[Width, ...]
    cost: Polynomial
    sizes: Mapping[str, int]

    def sizes_with(self, live: Mapping[str, Tensor]) -> dict[str, int]:
        """The sizes with those units alone that are left."""
        return {**self.sizes, **{id: int(mask.sum()) for id, mask in live.items()}}


def choose_steps(
    course: Course, live: Mapping[str, Tensor], saliency: Mapping[str, Tensor], aim: int, target: int
) -> list[Step]:
    """The steps, in order, after which the cost is no more than `aim`; fewer where widths are at their least.

    `live` [units] says which units of each group are left, `saliency` [units] what each counts for. No step saves more
    than lies above the target, unless none is smaller.
    """
    sizes = course.sizes_with(live)
    orders = {id: rising(mask, saliency[id]) for id, mask in live.items()}
    parts = [terms_with(course.cost, frozenset(group.id for group in width.groups)) for width in course.widths]
    total, found = course.cost(sizes), list[Step]()
    while total > aim:
        pairs = zip(course.widths, parts, strict=True)
        steps = [step for step in (next_step(width, part, sizes, orders) for width, part in pairs) if step is not None]
        fitting = [step for step in steps if step.saved <= total - target]
        if not steps:
            break
        step = min(fitting, key=by_saliency) if fitting else min(steps, key=by_size)
        found.append(step)
        total -= step.saved
        for id, units in step.units.items():
            orders[id] = orders[id][len(units) :]
            sizes[id] -= len(units)
    return found


def rising(mask: Tensor, saliency: Tensor) -> Sequence[tuple[float, int]]:
    """The units that are left with their saliency, the least first; of equal ones the first."""
    order = torch.argsort(saliency, stable=True)
    return [(float(saliency[unit]), int(unit)) for unit in order if mask[unit]]


def next_step(
    width: Width, part: Polynomial, sizes: Mapping[str, int], orders: Mapping[str, Sequence[tuple[float, int]]]
) -> Step | None:
    """The step that a width would take next; None where it is at its least, or nothing would be saved.

    `part` are the terms of the cost that the width is in.
    """
    now = sizes[width.groups[0].id]
    below = width.levels[width.levels < now]
    if not len(below):
        return None
    units = {group.id: orders[group.id][: now - int(below[-1])] for group in width.groups}
    saved = part(sizes) - part({**sizes, **dict.fromkeys(units, int(below[-1]))})
    if saved <= 0:
        return None
    saliency = sum(value for taken in units.values() for value, _ in taken) / saved
    gone = {id: tuple(sorted(unit for _, unit in taken)) for id, taken in units.items()}
    return Step(gone, width.groups[0].kind, saved, saliency)


def by_saliency(step: Step) -> tuple[float, int]:
    return step.saliency, step.saved


def by_size(step: Step) -> tuple[int, float]:
    return step.saved, step.saliency
