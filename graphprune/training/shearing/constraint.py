"""The constraint: expected shares of units that go are driven to targets by multipliers that ascend.

    L = mean over the sets of a kind, summed over kinds, of  l1 (s - t) + l2 (s - t)^2
    s = 1 - mean keep probability,  t from 0 to its target over the first part of the steps

The minimum over weights and positions and the maximum over l1 and l2 is looked for at once, as a Lagrangian's is. Each
set has multipliers of its own, so that each meets its target; the published code has one pair for all sets of a kind.
Source: Sheared LLaMA, arXiv 2310.06694, section 3.1.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor

from graphprune.gates.hard_concrete import keep_probability
from graphprune.training.shearing.gate_sets import GateSet


def ramp(step: int, steps: int, share: float) -> float:
    """How far targets are on their way at a step: 0 at the first, 1 from `share` of all steps on."""
    return min(1.0, step / max(1.0, share * steps))


def sparsity(position: Tensor, temperature: float) -> Tensor:
    """The expected share of the units of a set that go."""
    return 1 - keep_probability(position, temperature).mean()


def lagrangian(
    sets: Sequence[GateSet],
    positions: Mapping[str, Tensor],
    multipliers: Mapping[str, Tensor],
    progress: float,
    temperature: float,
) -> Tensor:
    """The penalty with targets this far on their way; multipliers are [2] for each set, by its name."""
    kinds = Counter(each.kind for each in sets)
    total = next(iter(positions.values())).new_zeros(())
    for each in sets:
        gap = sparsity(positions[each.name], temperature) - progress * each.sparsity
        first, second = multipliers[each.name]
        total = total + (first * gap + second * gap.square()) / kinds[each.kind]
    return total
