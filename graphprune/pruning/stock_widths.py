"""Uniform widths: which equal counts a stock checkpoint of the source's architecture can have."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.analysis.groups import Group, Groups
from graphprune.budget.backend import Backend
from graphprune.budget.installed import load_backend
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import cut, kept_masks
from graphprune.rewriting.widths import Widths

# Counts of these kinds are tried one by one; MLP channels may have any width.
_TRIED = ("attention", "query", "head_dim", "experts")
_LONGEST_STRIDE = 128
STOCK = "huggingface"  # the spec of the backend whose format has classes of the source's own


def allowed_counts(graph: Graph, groups: Groups) -> dict[str, frozenset[int]]:
    """For each kind of head, and for the residual width, the counts that the source's configuration can express."""
    by_kind: dict[str, list[Group]] = defaultdict(list)
    for group in groups.prunable(frozenset((*_TRIED, "residual"))):
        by_kind[group.kind].append(group)
    analysis = analyze_axes(graph)
    return {
        kind: strided_counts(graph, analysis, members) if kind == "residual" else tried_counts(graph, analysis, members)
        for kind, members in by_kind.items()
    }


def tried_counts(graph: Graph, analysis: Analysis, members: Sequence[Group]) -> frozenset[int]:
    """Every count that was found to be expressible when all of these groups have it."""
    full = {group.units for group in members}
    if len(full) > 1:
        return frozenset(full)
    units = full.pop()
    return frozenset(n for n in range(1, units) if is_expressible(graph, analysis, members, n)) | {units}


def strided_counts(graph: Graph, analysis: Analysis, members: Sequence[Group]) -> frozenset[int]:
    """Widths at the stride that the configuration asks for: some want a multiple of the number of heads."""
    units = members[0].units
    strides = range(1, min(units, _LONGEST_STRIDE))
    stride = next((d for d in strides if is_expressible(graph, analysis, members, units - d)), units)
    return frozenset(range(units, 0, -stride))


def is_expressible(graph: Graph, analysis: Analysis, members: Sequence[Group], count: int) -> bool:
    plan = Plan({group.id: tuple(range(count)) for group in members})
    small = cut(graph, Widths(analysis.inference, kept_masks(analysis, plan)))
    return stock_backend().expresses(small)


def without_heads(allowed: Mapping[str, frozenset[int]]) -> dict[str, frozenset[int]]:
    """The same with every head kept, for configurations in which the residual width must suit the heads."""
    return {kind: frozenset({max(counts)}) if kind in _TRIED else counts for kind, counts in allowed.items()}


def has_stock_form(graph: Graph) -> bool:
    return stock_backend().expresses(graph)


def stock_backend() -> Backend:
    """The backend that writes stock checkpoints."""
    return load_backend(STOCK)


def require_stock(graph: Graph) -> None:
    """Raise UsageError where the pruned model has no stock form after all."""
    if not has_stock_form(graph):
        raise UsageError(
            "--uniform: no configuration of this architecture has these widths; try another target, --round-to, "
            "or fewer --prune kinds"
        )
