"""Cost clusters: which widths multiply in the cost, and which are free of each other once a few are fixed."""

from collections.abc import Sequence
from dataclasses import dataclass

from graphprune.analysis.cost import Polynomial
from graphprune.budget.budgets import Width

Members = tuple[int, ...]


@dataclass(frozen=True)
class Clusters:
    """Places in a list of widths: for any widths of the `hubs`, the cost is a sum over the `parts`."""

    hubs: Members
    parts: tuple[Members, ...]


def find_clusters(cost: Polynomial, widths: Sequence[Width], largest: int = 3) -> Clusters:
    """The fewest hubs, found greedily, without which no part has more than `largest` widths.

    Widths belong together where a term of the cost has both. The residual width, which multiplies nearly all others,
    is the hub of a transformer; heads, queries and head dimensions of one layer are a part.
    """
    neighbours = find_neighbours(cost, widths)
    hubs: list[int] = []
    parts = connected(neighbours, hubs)
    while max(map(len, parts), default=0) > largest:
        inside = max(parts, key=len)
        hubs.append(max(inside, key=lambda w: len(neighbours[w] - set(hubs))))
        parts = connected(neighbours, hubs)
    return Clusters(tuple(hubs), parts)


def find_neighbours(cost: Polynomial, widths: Sequence[Width]) -> list[set[int]]:
    """For each width, those that it is multiplied with somewhere in the cost."""
    owner = {group.id: place for place, width in enumerate(widths) for group in width.groups}
    found: list[set[int]] = [set() for _ in widths]
    for term in cost.terms:
        together = {owner[id] for id in term if id in owner}
        for place in together:
            found[place] |= together - {place}
    return found


def connected(neighbours: Sequence[set[int]], without: Sequence[int]) -> tuple[Members, ...]:
    """The connected parts of what is left, each ascending, in the order of their first members."""
    parts: list[Members] = []
    seen = set(without)
    for start in range(len(neighbours)):
        if start in seen:
            continue
        part, queue = {start}, [start]
        while queue:
            new = neighbours[queue.pop()] - seen - part
            part |= new
            queue += new
        seen |= part
        parts.append(tuple(sorted(part)))
    return tuple(parts)
