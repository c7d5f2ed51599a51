"""Choices: axes that a model chooses from as it runs, such as experts, and how many entries it then has to choose.

An entry that is removed from such an axis is absent: it is never chosen, and counts for nothing where a softmax, a sum
or a maximum runs over it. Where fewer are left than are asked for, all that are left are chosen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from graphprune.axes.algebra import Algebra, Axis
from graphprune.axes.inference import Choice, Inference, Reduction

Masks = Mapping[Axis, NDArray[numpy.bool_]]


@dataclass(frozen=True, eq=False)
class Chosen:
    """The atomic axes that are chosen from, and those that count what was chosen and may shrink with them.

    `reductions` are the calls that run over any of these, `least` how many entries each axis must keep.
    """

    atoms: frozenset[Axis]
    slots: Mapping[Axis, tuple[Axis, ...]]
    reductions: tuple[Reduction, ...]
    least: Mapping[Axis, int]


def chosen_atoms(inference: Inference) -> frozenset[Axis]:
    """The atomic axes that some call chooses from by index."""
    algebra = inference.algebra
    return frozenset(a for choice in inference.choices if choice.picks for a in algebra.atoms(choice.axis))


def find_chosen(inference: Inference, fixed: frozenset[Axis]) -> Chosen:
    """What is chosen from. `fixed` are atomic axes that may not shrink, or that parameters carry."""
    algebra, atoms = inference.algebra, chosen_atoms(inference)
    slots: dict[Axis, tuple[Axis, ...]] = {}
    for choice in inference.choices:
        root = free_slots(algebra, choice, fixed)
        if root is not None:
            slots[root] = (*slots.get(root, ()), choice.axis)
    running = atoms | slots.keys()
    reductions = tuple(r for r in inference.reductions if not running.isdisjoint(algebra.atoms(r.axis)))
    return Chosen(atoms, slots, reductions, least_kept(inference, slots))


def free_slots(algebra: Algebra, choice: Choice, fixed: frozenset[Axis]) -> Axis | None:
    """The atomic axis that counts what a call chose, if it may shrink."""
    if choice.slots is None:
        return None
    root = algebra.find(choice.slots)
    return root if algebra.form(root) is None and root not in fixed else None


def least_kept(inference: Inference, slots: Mapping[Axis, tuple[Axis, ...]]) -> dict[Axis, int]:
    """How many units an atomic axis must keep: as many as are chosen where that number may not shrink.

    Entries picked one at a time are taken to differ from each other, as the best and the second best do.
    """
    algebra, singles = inference.algebra, dict[Axis, int]()
    needs: list[tuple[Axis, int]] = []
    for choice in inference.choices:
        root = algebra.find(choice.axis)
        if choice.slots is None:
            singles[root] = singles.get(root, 0) + choice.picks
        elif algebra.find(choice.slots) not in slots:
            needs.append((root, int(str(algebra.size(choice.slots)))))
    found: dict[Axis, int] = {}
    for axis, need in [*needs, *singles.items()]:
        for atom, least in shares(algebra, axis, need):
            found[atom] = max(found.get(atom, 1), least)
    return found


def shares(algebra: Algebra, axis: Axis, need: int) -> Iterator[tuple[Axis, int]]:
    """What each factor of an axis must keep so that `need` entries are left, from the innermost on."""
    for factor in reversed(algebra.factors(axis)):
        size = int(str(algebra.size(factor)))
        least = max(
            1, min(size, need)
        )  # the largest value alone needs no entry of its own, but one to be the largest of
        need = -(-need // least)
        yield from ((atom, least) for atom in algebra.atoms(factor))


def slot_masks(inference: Inference, chosen: Chosen, kept: Masks) -> dict[Axis, NDArray[numpy.bool_]]:
    """The masks of the axes that count what is chosen: the first entries, as many as there are left to choose."""
    found: dict[Axis, NDArray[numpy.bool_]] = {}
    for slot, sources in chosen.slots.items():  # in graph order: a choice among what was chosen comes later
        size = int(str(inference.algebra.size(slot)))
        left = min(count_kept(inference.algebra, axis, {**kept, **found}) for axis in sources)
        if left < size:
            found[slot] = numpy.arange(size) < left
    return found


def count_kept(algebra: Algebra, axis: Axis, kept: Masks) -> int:
    """The entries left of an axis of static size."""
    root = algebra.find(axis)
    form = algebra.form(root)
    if form is None:
        return int(kept[root].sum()) if root in kept else int(str(algebra.size(root)))
    counts = [count_kept(algebra, part, kept) for part in form[1]]
    return sum(counts) if form[0] == "concat" else int(numpy.prod(counts))
