"""Budgets: the widths that each group may take, and the smallest model within reach."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy
from numpy.typing import NDArray

from graphprune.analysis.cost import Polynomial
from graphprune.analysis.groups import BLOCKS, Group, Groups
from graphprune.budget.quantities import Parameters, Quantity
from graphprune.errors import BudgetError, UsageError

# Widths of plain channels; a count of heads, experts or rotary pairs gains nothing from a multiple.
ROUNDED_KINDS = frozenset({"mlp", "residual", "vocabulary", "other"})
EVEN_KINDS = frozenset({"mlp", "residual"})  # of these, what matrices are multiplied over
_FINE = 32


@dataclass(frozen=True)
class Budget:
    """What the result may cost, and what every group keeps at least.

    `target` is in units of the cost of `quantity`. A group keeps at least `min_units` units and the share `floor` of
    its units. Widths other than heads are multiples of `round_to`, or stay whole, and of `even` as far as that costs
    little, see `even_step`. With `uniform`, groups of one kind
    and one width keep the same count. `allowed[kind]` lists the only counts that groups of a kind may keep;
    `least[id]` is what one group keeps at least,
    `within[kind]` the share of their units that all candidates of a kind keep together. Kinds in `equal` are as with
    `uniform`; `multiples[kind]` is what every width of a kind is a multiple of, the full width too.
    """

    target: int
    min_units: int = 1
    floor: float = 0.0
    round_to: int = 1
    uniform: bool = False
    allowed: Mapping[str, frozenset[int]] = field(default_factory=dict)
    least: Mapping[str, int] = field(default_factory=dict)
    within: Mapping[str, float] = field(default_factory=dict)
    equal: frozenset[str] = frozenset()
    multiples: Mapping[str, int] = field(default_factory=dict)
    even: int = 1
    quantity: Quantity = field(default_factory=Parameters)

    def __post_init__(self) -> None:
        if self.target < 1 or self.min_units < 1 or self.round_to < 1 or self.even < 1:
            raise UsageError("target, minimum units and rounding must be 1 or more")
        if not 0 <= self.floor <= 1:
            raise UsageError(f"the floor is the share that a group keeps at least, between 0 and 1, not {self.floor}")


@dataclass(frozen=True, eq=False)
class Width:
    """One free count: the groups that share it, and the values it may take, ascending up to the full width."""

    groups: tuple[Group, ...]
    levels: NDArray[numpy.int64]

    def at(self, level: int) -> dict[str, int]:
        """The count of each of its groups at a level."""
        return {group.id: int(self.levels[level]) for group in self.groups}


def cost_of(groups: Groups, budget: Budget) -> Polynomial:
    """The polynomial that the budget limits."""
    return budget.quantity.cost(groups)


def levels_of(group: Group, budget: Budget) -> NDArray[numpy.int64]:
    """The counts that a group may keep, ascending. Raises BudgetError where none is allowed."""
    if group.kind in BLOCKS:  # there or not, whatever every width keeps
        return numpy.arange(budget.least.get(group.id, 0), 2, dtype=numpy.int64)
    share = math.ceil(budget.floor * group.units - 1e-9)
    least = min(group.units, max(budget.min_units, share, budget.least.get(group.id, 1), group.least))
    rounding = budget.round_to if group.kind in ROUNDED_KINDS else 1
    step = math.lcm(rounding, even_step(group, budget), group.multiple)
    counts: NDArray[numpy.int64] = numpy.arange(least, group.units + 1, dtype=numpy.int64)
    counts = counts[(counts % step == 0) | (counts == group.units)]
    strict = budget.multiples.get(group.kind, 1)
    counts = counts[counts % strict == 0]
    if group.kind in budget.allowed:
        counts = counts[numpy.isin(counts, list(budget.allowed[group.kind]))]
    if not len(counts):
        such = f"multiple of {strict}" if strict > 1 else "allowed width"
        raise BudgetError(f"no {such} for {group.id} ({group.kind}) lies between {least} and {group.units}")
    return counts


def even_step(group: Group, budget: Budget) -> int:
    """What a width is a multiple of because hardware likes it: the largest power of two that `even` and the width have,
    of which the width holds `_FINE` at least, so that the budget is met nearly as well as without."""
    if group.kind not in EVEN_KINDS or group.kind in budget.allowed:
        return 1
    step = math.gcd(budget.even, group.units)
    while step * _FINE > group.units:
        step //= 2
    return max(1, step)


def free_widths(candidates: Sequence[Group], budget: Budget) -> tuple[Width, ...]:
    """The free counts in graph order: one a group, or a tie; one for all groups that the budget wants equal."""
    shared: dict[tuple[object, ...], list[Group]] = {}
    for group in candidates:
        alike = (budget.uniform or group.kind in budget.equal) and group.kind not in BLOCKS
        shared.setdefault((group.kind, group.units) if alike else (group.tie or group.id,), []).append(group)
    return tuple(Width(tuple(members), levels_of(members[0], budget)) for members in shared.values())


def reachable_minimum(groups: Groups, candidates: Sequence[Group], budget: Budget) -> int:
    """The cost with every candidate at its smallest width and everything else whole."""
    smallest = {id: count for width in free_widths(candidates, budget) for id, count in width.at(0).items()}
    return cost_of(groups, budget)(groups.sizes() | smallest)


def check_reachable(groups: Groups, candidates: Sequence[Group], budget: Budget) -> None:
    """Raise BudgetError with the reachable minimum where the target lies below it."""
    minimum = reachable_minimum(groups, candidates, budget)
    if budget.target < minimum:
        kinds = ", ".join(sorted({group.kind for group in candidates})) or "nothing"
        raise BudgetError(
            f"the target of {budget.quantity.show(budget.target)} is out of reach: pruning {kinds} reaches "
            f"{budget.quantity.show(minimum)}; prune more kinds, lower the floors, or raise the target"
        )
