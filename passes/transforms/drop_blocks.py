"""The drop-blocks pass: take whole residual branches out of a graph."""

from dataclasses import dataclass
from typing import ClassVar, final

from graphprune.analysis.analyse import analyze
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.pipeline.passes import Context, Pass
from graphprune.pruning.signals.stream_change import branch_influence
from graphprune.rewriting.apply import apply


@final
@dataclass(frozen=True)
class DropBlocks(Pass):
    """Drop the `count` residual branches with the least influence, or the `branches` named.

    Before `x + attention(norm(x))`, after `x`: the branch's weights and its cache entries are gone.
    """

    name: ClassVar[str] = "drop-blocks"
    count: int = 1
    branches: tuple[str, ...] = ()

    def run(self, graph: Graph, context: Context) -> Graph:
        groups = analyze(graph)
        chosen = self.branches
        if not chosen:
            if not context.calibration:
                raise UsageError("drop-blocks measures influence on text; give calibration data or name the branches")
            influence = branch_influence(context.placed(graph), groups, context.calibration)
            chosen = tuple(sorted(influence, key=lambda id: (influence[id], id))[: self.count])
        return apply(graph, Plan({}, chosen))
