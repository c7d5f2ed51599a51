"""The schedule: in which order a graph's nodes run, what each value is computed again from, and how long it stays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx


@dataclass(frozen=True, eq=False)
class Schedule:
    """`recomputed` are nodes whose values backward computes again, `sources` the kept values each of them needs for it,
    `dying` the values that nothing needs any more behind a node, unless backward does."""

    order: Sequence[fx.Node]
    position: Mapping[fx.Node, int]
    recomputed: frozenset[fx.Node]
    sources: Mapping[fx.Node, tuple[fx.Node, ...]]
    dying: Mapping[fx.Node, tuple[fx.Node, ...]]


def make_schedule(graph: fx.Graph, recomputed: frozenset[str]) -> Schedule:
    order = tuple(graph.nodes)
    again = frozenset(node for node in order if node.name in recomputed)
    sources: dict[fx.Node, tuple[fx.Node, ...]] = {}
    for node in (node for node in order if node in again):
        inputs = (sources[each] if each in again else (each,) for each in node.all_input_nodes)
        sources[node] = tuple(dict.fromkeys(each for part in inputs for each in part))
    return Schedule(order, {node: place for place, node in enumerate(order)}, again, sources, dying_after(order, again))


def dying_after(order: Sequence[fx.Node], again: frozenset[fx.Node]) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """By node, the values whose last reader it is; one that others are computed from stays as long as they."""
    position = {node: place for place, node in enumerate(order)}
    reach: dict[fx.Node, int] = {}
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(order):
        last = max([position[node], *(position[user] for user in node.users)])
        reach[node] = max([last, *(reach[user] for user in node.users if user in again)])
        end = last if node in again else reach[node]
        found.setdefault(order[end], []).append(node)
    return {node: tuple(values) for node, values in found.items()}
