"""Places: which weights of a graph get a pattern, where each layer begins, and what stays as it is, and why."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from graphprune.analysis.analyse import analyze
from graphprune.analysis.branches import SIDE_READ, SIDE_WRITE
from graphprune.analysis.layers import find_layers
from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.weights.patterns import Grouped, Pattern

_NAMED = 4


@dataclass(frozen=True, eq=False)
class Places:
    """The calls whose weights get a pattern, in graph order, the nodes that layers begin with, and notes."""

    calls: tuple[LinearCall, ...]
    starts: frozenset[str]
    notes: tuple[str, ...]


def find_places(graph: Graph, pattern: Pattern, scope: str | None, skip: Sequence[str]) -> Places:
    """All linear calls with a weight of their own but the head, whose name `scope` is found in and none of `skip`.

    Raises UsageError where there is none, and naming the weights that a pattern of groups does not fit.
    """
    groups, tensors = analyze(graph), graph.tensors()
    words = {slot.name for group in groups.groups if group.kind == "vocabulary" for slot in group.slots}
    calls = [
        call
        for call in find_linear_calls(graph)
        if call.weight not in words
        and not call.weight.endswith((SIDE_READ, SIDE_WRITE))
        and (scope is None or re.search(scope, call.weight))
        and not any(re.search(each, call.weight) for each in skip)
    ]
    if not calls:
        told = f" with {scope} in its name" if scope else ""
        raise UsageError(f"sparsify finds no linear layer{told} that has a weight of its own")
    if isinstance(pattern, Grouped):
        require_groups(calls, {c.weight: c.matrix(tensors[c.weight]).shape[1] for c in calls}, pattern)
    starts = frozenset(layer[0].skip for layer in find_layers(groups))
    return Places(tuple(calls), starts, left_whole(graph, {call.weight for call in calls}, words, scope, skip))


def require_groups(calls: Sequence[LinearCall], inputs: dict[str, int], pattern: Grouped) -> None:
    wrong = [call.weight for call in calls if inputs[call.weight] % pattern.size]
    if wrong:
        kinds = list(dict.fromkeys(name.removesuffix(".weight").rpartition(".")[2] for name in wrong))
        raise UsageError(
            f"{named(wrong)} read {inputs[wrong[0]]} inputs, which is no multiple of {pattern.size}: {pattern} does "
            f"not fit; leave them out with --set sparsify.skip=[{','.join(kinds)}], or cut with --round-to "
            f"{pattern.size}"
        )


def left_whole(
    graph: Graph, chosen: set[str], words: set[str], scope: str | None, skip: Sequence[str]
) -> tuple[str, ...]:
    """A note of the weights that no pattern is for though they were meant: stacks of experts, convolutions, shared."""
    tensors = graph.tensors()
    taken = {id(tensors[name]) for name in (*chosen, *(word for word in words if word in tensors))}
    others = [
        name
        for name, parameter in graph.parameters().items()
        if parameter.ndim > 1
        and id(parameter) not in taken
        and not name.endswith((SIDE_READ, SIDE_WRITE))  # dense on purpose: they make up for zeros beside them
        and (scope is None or re.search(scope, name))
        and not any(re.search(each, name) for each in skip)
    ]
    if not others:
        return ()
    count = sum(tensors[name].numel() for name in others)
    return (
        f"no pattern for {named(others)} ({count:,} parameters): only matrices that one linear layer alone reads get "
        "one, not stacks of experts, convolutions, tables or shared weights",
    )


def named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
