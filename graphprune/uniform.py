"""Uniform widths: which equal counts a stock checkpoint of the source's architecture can have."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any

from graphprune import registry
from graphprune.analysis import analyze_axes
from graphprune.errors import UsageError
from graphprune.groups import Group, Groups
from graphprune.ir import Graph
from graphprune.plan import Plan
from graphprune.rewrite import cut, kept_masks
from graphprune.sizes import Widths

# Counts of these kinds are tried one by one; channels may have any width.
_TRIED = ("attention", "query", "head_dim", "experts")


def allowed_counts(graph: Graph, groups: Groups) -> dict[str, frozenset[int]]:
    """For each kind of head, the counts that the source's own configuration can express when all layers share them."""
    by_kind: dict[str, list[Group]] = defaultdict(list)
    for group in groups.prunable(frozenset(_TRIED)):
        by_kind[group.kind].append(group)
    return {kind: expressible_counts(graph, members) for kind, members in by_kind.items()}


def expressible_counts(graph: Graph, members: Sequence[Group]) -> frozenset[int]:
    full = {group.units for group in members}
    if len(full) > 1:
        return frozenset(full)
    units = full.pop()
    analysis = analyze_axes(graph)
    backend = stock_backend()

    @cache
    def expressible(count: int) -> bool:
        plan = Plan({group.id: tuple(range(count)) for group in members})
        small = cut(graph, Widths(analysis.inference, kept_masks(analysis, plan)))
        return bool(backend.expresses(small))

    return frozenset(count for count in range(1, units) if expressible(count)) | {units}


def stock_backend() -> Any:
    """The backend that writes stock checkpoints."""
    return registry.load("backends", "huggingface")()


def require_stock(graph: Graph) -> None:
    """Raise UsageError where the pruned model has no stock form after all."""
    if not stock_backend().expresses(graph):
        raise UsageError(
            "--uniform: no configuration of this architecture has these widths; try another target, --round-to, "
            "or fewer --prune kinds"
        )
