"""Blocks of a captured graph: which calls belong to which, what they hand on, and whether two are equal."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, fx

from graphprune.frontend.blocks.relation import NotRepeatedError, layer_of, rename_state
from graphprune.frontend.blocks.repetition import Repetition
from graphprune.ir.canonical import CONSTANTS
from graphprune.ir.graph import Graph

Block = tuple[str, int]  # the path of a list of blocks, and an index


@dataclass(frozen=True, eq=False)
class Segments:
    """The calls of each kept block in order, and those among them that something outside the block reads."""

    owners: Mapping[fx.Node, Block]
    nodes: Mapping[Block, Sequence[fx.Node]]
    carried: Mapping[Block, Sequence[fx.Node]]


def find_segments(graph: Graph, repetitions: Sequence[Repetition]) -> Segments:
    """Divide the graph by the modules that its calls were traced in. Raises NotRepeatedError."""
    lengths = {r.path: r.kept for r in repetitions}
    owners = {n: block for n in graph.nodes if is_traced(n) and (block := block_of(n.meta["scope"], lengths))}
    traced = [owners.get(n) for n in graph.nodes if is_traced(n)]
    turns = {block: after for block, after in pairwise([*traced, None]) if block is not None and block != after}
    ends = [block for block, after in turns.items() if after != (block[0], block[1] + 1)]
    if len(turns) != sum(lengths.values()) or ends != [(p, lengths[p] - 1) for p in dict.fromkeys(p for p, _ in ends)]:
        raise NotRepeatedError("the calls of a block do not stand together, or something is computed between blocks")
    nodes: dict[Block, list[fx.Node]] = {block: [] for block in turns}
    for node, block in owners.items():
        nodes[block].append(node)
    returned = {node for name, node in graph.results.items() if layer_of(name) is None}
    carried = {b: [n for n in nodes[b] if n in returned or leaves(n, owners, b)] for b in turns}
    return Segments(owners, nodes, carried)


def is_traced(node: fx.Node) -> bool:
    """Say whether a call was the model's; the others compute sizes, once for the whole graph."""
    return node.op == "call_function" and "scope" in node.meta


def block_of(scope: str, paths: Mapping[str, int]) -> Block | None:
    """The block that a module lies in."""
    for path in paths:
        if scope.startswith(f"{path}."):
            return path, int(scope.removeprefix(f"{path}.").partition(".")[0])
    return None


def leaves(node: fx.Node, owners: Mapping[fx.Node, Block], block: Block) -> bool:
    """Say whether a call outside the block reads this node."""
    return any(user.op != "output" and owners.get(user) != block for user in node.users)


def require_alike(graph: Graph, segments: Segments, repetitions: Sequence[Repetition]) -> None:
    """Check that kept blocks which count as equal are equal in the graph too, sizes and types included.

    Raises NotRepeatedError. Block 0 is compared but for what comes into it, which is another block's with the others.
    """
    view = View(graph, segments)
    for r in repetitions:
        pairs = [(0, r.like_first or 0, False), *((r.sources[i], i, True) for i in range(1, r.kept))]
        for i, j, borders in pairs:
            if i != j and view.lines((r.path, i), borders) != view.lines((r.path, j), borders):
                raise NotRepeatedError(f"blocks {i} and {j} of {r.path} are captured differently")


@dataclass(frozen=True, eq=False)
class View:
    """The calls of a block written relative to it."""

    graph: Graph
    segments: Segments

    @functools.cached_property
    def names(self) -> dict[fx.Node, str]:
        return {node: name for name, node in self.graph.placeholders.items()}

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        return self.graph.tensors()

    def lines(self, block: Block, borders: bool) -> list[Any]:
        """One line a call; without `borders` all that comes from other blocks and from outside looks the same."""
        places = {node: place for place, node in enumerate(self.segments.nodes[block])}

        def operand(node: fx.Node) -> Any:
            if node in places:
                return Operand("local", places[node])
            if node.op == "call_function" and not is_traced(node):
                return Operand("size", node)
            return self.border(node, block) if borders or node.op == "get_attr" else Operand("border")

        return [
            (n.target, fx.node.map_arg((n.args, n.kwargs), operand), n.meta["value"], rename(n.meta["scope"], block))
            for n in places
        ]

    def border(self, node: fx.Node, block: Block) -> "Operand":
        """An operand from outside of a block."""
        if node.op == "get_attr":
            name, tensor = str(node.target), self.tensors[str(node.target)]
            if name.startswith(CONSTANTS):
                return Operand("constant", (tensor.dtype, str(tensor.tolist())))
            return Operand("tensor", rename(name, block))
        if node.op == "placeholder":
            layer = layer_of(self.names[node])
            return Operand("input", node if layer is None else (layer - block[1], rename_state(self.names[node], 0)))
        made = self.segments.owners.get(node)
        if made is None or made[0] != block[0] or (made[1] == 0 and block[1] > 1):
            return Operand("shared", node)
        return Operand("carried", (block[1] - made[1], list(self.segments.carried[made]).index(node)))


@dataclass(frozen=True)
class Operand:
    """What a call reads, as its block sees it."""

    kind: str
    what: Any = None


def rename(name: str, source: Block, block: Block | None = None) -> str:
    """The name of the same thing in another block, or without its block."""
    start = f"{source[0]}.{source[1]}"
    if name != start and not name.startswith(f"{start}."):
        return name
    return ("" if block is None else f"{block[0]}.{block[1]}") + name.removeprefix(start)
