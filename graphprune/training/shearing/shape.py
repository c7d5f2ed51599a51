"""The shape: one width for all layers, and how many layers, as given or as an even share of everything at a target."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy

from graphprune.analysis.groups import BLOCKS, Group, Groups
from graphprune.budget.budgets import Budget, Width, cost_of, free_widths
from graphprune.errors import BudgetError, UsageError
from graphprune.pruning.options import PRUNABLE

LAYERS = "layers"


@dataclass(frozen=True)
class Shape:
    """The units that each group keeps, how many layers stay (0: all), and what all of it costs."""

    counts: Mapping[str, int]
    layers: int
    cost: int

    @property
    def keep(self) -> tuple[str, ...]:
        """The counts as options are written: `ID=12`."""
        return tuple(f"{id}={count}" for id, count in self.counts.items())


def read_shape(given: Sequence[str]) -> dict[str, int]:
    """`residual=192`, `attention=3`, `mlp=512`, `layers=4` as numbers. Raises UsageError."""
    found = dict[str, int]()
    for text in given:
        kind, _, number = text.partition("=")
        if kind not in (*PRUNABLE, LAYERS) or kind == "blocks" or not number.isdecimal() or int(number) < 1:
            raise UsageError(f"shape {text[:40]!r}: write a kind and the units that stay in each layer, mlp=512")
        if kind in found:
            raise UsageError(f"shape names {kind} twice")
        found[kind] = int(number)
    return found


def find_shape(groups: Groups, candidates: Sequence[Group], budget: Budget, given: Mapping[str, int]) -> Shape:
    """The shape with what is given, and otherwise the largest even share of every width that the budget allows; what
    is left of it goes to the finest width.

    All groups of a kind and a width keep the same count. Raises UsageError for what the model does not have or more
    than it has, BudgetError where the budget does not allow it.
    """
    units = tuple(group for group in candidates if group.kind not in BLOCKS)
    missing = next((kind for kind in given if kind != LAYERS and kind not in {g.kind for g in units}), None)
    if missing is not None:
        raise UsageError(f"shape names {missing}, of which nothing may be cut here; name it in prune.kinds")
    layers, gone = drop_layers(candidates, given.get(LAYERS, 0))
    cost, sizes = cost_of(groups, budget), {**groups.sizes(), **dict.fromkeys(gone, 0)}
    fixed, free = dict[str, int](), list[Width]()
    for width in free_widths(units, budget):
        kind = width.groups[0].kind
        if kind in given:
            fixed |= width.at(level_of(width, given[kind]))
        else:
            free.append(width)
    counts = fixed | even(free, lambda more: cost({**sizes, **fixed, **more}) <= budget.target)
    total = cost({**sizes, **counts})
    if total > budget.target:
        show = budget.quantity.show
        raise BudgetError(f"this shape costs {show(total)}, more than the target of {show(budget.target)}; lower it")
    return Shape(counts, layers, total)


def drop_layers(candidates: Sequence[Group], stay: int) -> tuple[int, tuple[str, ...]]:
    """How many layers stay, 0 for all, and the branches of as many as go: equal layers cost the same, whichever go."""
    layers = dict[str, list[str]]()
    for block in (group for group in candidates if group.kind in BLOCKS):
        layers.setdefault(block.tie or block.id, []).append(block.id)
    if stay > len(layers):
        raise UsageError(f"shape has {stay} layers, and the model {len(layers)} that may go; lower it, or leave it out")
    if stay in (0, len(layers)):
        return 0, ()
    return stay, tuple(id for ids in list(layers.values())[stay:] for id in ids)


def level_of(width: Width, count: int) -> int:
    """The level of a width that has just this count. Raises UsageError where it has none."""
    found = numpy.flatnonzero(width.levels == count)
    if not len(found):
        group = width.groups[0]
        known = width.levels.tolist()
        shown = ", ".join(map(str, known if len(known) < 8 else [*known[:3], "...", *known[-3:]]))
        raise UsageError(f"shape {group.kind}={count}: {group.id} has {group.units} units, and may keep {shown}")
    return int(found[0])


def even(free: Sequence[Width], fits: Callable[[Mapping[str, int]], bool]) -> dict[str, int]:
    """Counts of the same share of each width, the largest that fits, and more of the finest as far as that fits."""
    if not free:
        return {}

    def at(share: float) -> list[int]:
        tops = [share * width.levels[-1] + 1e-9 for width in free]
        return [max(0, int((width.levels <= top).sum()) - 1) for width, top in zip(free, tops, strict=True)]

    def counts(levels: Sequence[int]) -> dict[str, int]:
        return {id: n for width, level in zip(free, levels, strict=True) for id, n in width.at(level).items()}

    shares = sorted({float(level / width.levels[-1]) for width in free for level in width.levels})
    low, high = 0, len(shares)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(counts(at(shares[middle]))) else (low, middle)
    levels = at(shares[low])
    for place in sorted(range(len(free)), key=lambda place: -len(free[place].levels)):
        while levels[place] + 1 < len(free[place].levels):
            more = [level + (each == place) for each, level in enumerate(levels)]
            if not fits(counts(more)):
                break
            levels = more
    return counts(levels)
