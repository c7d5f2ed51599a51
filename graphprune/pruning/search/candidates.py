"""Candidates: models put together from a library's levels, and how far each is from the dense model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from graphprune.analysis.branches import find_branches
from graphprune.analysis.linear_calls import LinearCall
from graphprune.ir.graph import Graph
from graphprune.json_data import JsonObject
from graphprune.pruning.search.divergence import Divergence, tokens_in
from graphprune.pruning.search.evolution import Genes
from graphprune.pruning.search.journal import Journal
from graphprune.pruning.search.library import Levels, Library, spread
from graphprune.pruning.search.replay import Absent, Replay


@dataclass(frozen=True, eq=False)
class Part:
    """A call whose weight a gene chooses, and the count that its group keeps at each level of the gene."""

    gene: int
    call: LinearCall
    levels: Levels
    counts: tuple[int, ...]


@final
class Candidates:
    """Judges genes by the divergence, a token, of a graph with the library's weights at their levels.

    `graph` has all other calls solved already, `start` none; `blocks` has the residual branches, by their ids, that are
    there where a gene is 1. At a glance on the batches of `glance`, from the first
    part that is not as in the best genes so far; closely on those of `close`. All is written to the journal.
    """

    def __init__(
        self,
        start: Graph,
        graph: Graph,
        library: Library,
        parts: Sequence[Part],
        blocks: Mapping[int, Sequence[str]],
        glance: Divergence,
        close: Divergence,
        journal: Journal,
    ) -> None:
        self.start, self.graph, self.library, self.parts, self.journal = start.tensors(), graph, library, parts, journal
        self.sizes = tokens_in(glance.batches), tokens_in(close.batches)
        nodes = {node.name: node for node in graph.nodes}
        branches = {branch.id: branch for branch in find_branches(graph)}
        self.terms = {gene: [nodes[branches[id].branch] for id in ids] for gene, ids in blocks.items()}
        self.glance = Replay(graph, glance.batches, [nodes[branch.add] for branch in branches.values()], glance)
        self.close = Replay(graph, close.batches, [], close)
        self.best: tuple[float, Genes] | None = None
        self.settled: Genes | None = None

    def __call__(self, genes: Genes, closely: bool) -> float:
        key: JsonObject = {"library": self.library.folder.name, "closely": closely, "genes": list(genes)}
        if not closely:
            return self.journal.value(key, lambda: self.take_a_glance(genes))
        value = self.journal.value(key, lambda: self.look_closely(genes))
        if self.best is None or value < self.best[0]:
            self.best = value, genes
        return value

    def look_closely(self, genes: Genes) -> float:
        return self.close.run(self.weights(genes, self.parts), absent=self.absent(genes)) / self.sizes[1]

    def take_a_glance(self, genes: Genes) -> float:
        if self.best is not None and self.settled != self.best[1]:
            self.settled = self.best[1]
            self.glance.settle(self.weights(self.settled, self.parts), self.absent(self.settled))
        settled, absent = self.settled, self.absent(genes)
        if settled is None:
            return self.glance.run(self.weights(genes, self.parts), absent=absent) / self.sizes[0]
        changed = [part for part in self.parts if genes[part.gene] != settled[part.gene]]
        weights = self.weights(genes, changed)
        return self.glance.run(weights, tuple(weights), absent) / self.sizes[0]

    def absent(self, genes: Genes) -> Absent:
        """What the branches that are not there would add."""
        return frozenset(term for gene, terms in self.terms.items() if not genes[gene] for term in terms)

    def weights(self, genes: Genes, parts: Sequence[Part]) -> dict[str, Tensor]:
        """The weights, and biases, of these parts at the levels that the genes say."""
        found = dict[str, Tensor]()
        for part in parts:
            call, count = part.call, part.counts[genes[part.gene]]
            level, like = self.library.read(call.weight, count), call.matrix(self.start[call.weight].detach())
            found[call.weight] = call.matrix(spread(level.weight, part.levels.kept[count], like))
            if call.bias is not None and level.shift is not None:
                found[call.bias] = (self.start[call.bias].detach().double() + level.shift).to(like.dtype)
        return found
