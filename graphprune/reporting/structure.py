"""The structure of a model as plain data for a page: blocks with groups, widths and locks, and scores where known."""

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import groupby

from graphprune.analysis.groups import Branch as Residual
from graphprune.analysis.groups import Groups
from graphprune.reporting.schema import Report

_HEADS: frozenset[str] = frozenset({"attention", "query", "head_dim"})
_MIXING, _MLP, _ELSE = range(3)
FAMILIES = ("attention", "MLP", "anything else")  # of branches, by the groups in them


@dataclass(frozen=True)
class Bar:
    """A group as it is drawn: its units, what is left of them where that is known, the most units of its kind, and why
    it may not shrink."""

    id: str
    kind: str
    units: int
    left: int
    most: int
    locked: str | None
    price: int
    slots: tuple[str, ...]
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Branch:
    """A residual branch: its parameters, its groups, the family that it is of, the addition where it comes back, and
    whether it was dropped whole."""

    id: str
    parameters: int
    bars: tuple[Bar, ...]
    family: int
    addition: str
    dropped: bool = False


@dataclass(frozen=True)
class Layer:
    """A layer of a model: its branches in order. `alike` says that it is as the one before."""

    number: int
    branches: tuple[Branch, ...]
    alike: bool

    @property
    def parameters(self) -> int:
        return sum(branch.parameters for branch in self.branches)


@dataclass(frozen=True)
class Structure:
    """A model by its layers, with what lies across or outside of them."""

    model: str
    architecture: str
    costs: Mapping[str, int]
    layers: tuple[Layer, ...]
    across: tuple[Bar, ...]
    cut: bool

    @property
    def outside(self) -> int:
        """Parameters that no branch holds: embeddings, heads, norms between."""
        return self.costs["parameters"] - sum(layer.parameters for layer in self.layers)

    def bars(self) -> Iterator[tuple[str, Bar]]:
        """Every group with the branch that it is in, or its own name where it is in none."""
        yield from ((branch.id, bar) for layer in self.layers for branch in layer.branches for bar in branch.bars)
        yield from ((bar.id, bar) for bar in self.across)


def read_structure(
    model: str,
    architecture: str,
    groups: Groups,
    costs: Mapping[str, int],
    prices: Mapping[str, int],
    report: Report | None = None,
) -> Structure:
    """The structure that groups tell; `costs` and `prices` as inspect has them, widths and scores of a report."""
    bars = dict(zip((g.id for g in groups.groups), draw_groups(groups, prices, report), strict=True))
    homes = {branch.id for branch in groups.branches}
    dropped = set(report.dropped) if report else set()
    made = {
        b.id: make_branch(b, [bars[g.id] for g in groups.groups if g.block == b.id], prices.get(b.id, 0), dropped)
        for b in groups.branches
    }
    layers, before = list[Layer](), None
    for number, members in groupby(groups.branches, key=lambda branch: branch.layer):
        branches = tuple(made[member.id] for member in members)
        look = [signature(branch) for branch in branches]
        layers.append(Layer(number, branches, look == before))
        before = look
    across = tuple(bars[g.id] for g in groups.groups if g.block not in homes)
    return Structure(model, architecture, costs, tuple(layers), across, report is not None)


def draw_groups(groups: Groups, prices: Mapping[str, int], report: Report | None) -> Iterator[Bar]:
    most = {kind: max(g.units for g in groups.groups if g.kind == kind) for kind in {g.kind for g in groups.groups}}
    left = {width.group: width.after for width in report.widths} if report else {}
    scores = report.importance if report else {}
    for g in groups.groups:
        slots = tuple(f"{slot.name}:{slot.dim}" for slot in g.slots)
        finite = tuple(float(score) for score in scores.get(g.id, ()) if math.isfinite(score))
        kept = min(left.get(g.id, g.units), g.units)
        yield Bar(g.id, g.kind, g.units, kept, most[g.kind], g.locked, prices.get(g.id, 0), slots, finite)


def make_branch(branch: Residual, bars: Sequence[Bar], parameters: int, dropped: Set[str]) -> Branch:
    kinds, gone = {bar.kind for bar in bars}, branch.id in dropped
    family = _MIXING if kinds & _HEADS else _MLP if "mlp" in kinds else _ELSE
    shown = tuple(replace(bar, left=0) if gone else bar for bar in bars)
    return Branch(branch.id, parameters, shown, family, branch.add, gone)


def signature(branch: Branch) -> tuple[object, ...]:
    """What makes two branches look alike: everything but names and scores."""
    return (branch.parameters, *((bar.kind, bar.units, bar.left, bar.locked is None) for bar in branch.bars))


def sensitivities(structure: Structure) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """By kind: how much a unit of each group is worth, in order, as a share of the most that any of the kind is.

    What a unit is worth is the mean of its group's scores; where some are below nothing, the least is 0.
    """
    scored = [(name, bar, sum(bar.scores) / len(bar.scores)) for name, bar in structure.bars() if bar.scores]
    for kind in dict.fromkeys(bar.kind for _, bar, _ in scored):
        rows = [(name, mean) for name, bar, mean in scored if bar.kind == kind]
        low = min(0.0, *(mean for _, mean in rows)) if rows else 0.0
        span = max(mean for _, mean in rows) - low
        yield kind, [(name, (mean - low) / span if span > 0 else 0.0) for name, mean in rows]
