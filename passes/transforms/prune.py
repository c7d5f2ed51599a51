"""The prune pass: cut a graph to a target with an importance and an allocation."""

from dataclasses import dataclass
from typing import ClassVar, final

from graphprune.budget import Budget, parse_target
from graphprune.ir import Graph
from graphprune.pass_manager import Context, Pass
from graphprune.plan import Statistics
from graphprune.pruning import Request, prune
from graphprune.spec import parse_spec


@final
@dataclass(frozen=True)
class Prune(Pass):
    """Remove the least important units until the model has `target` parameters (`60%` of the source, `1B`).

    Before `linear(x, w[44, 32])`, after `linear(x, w[27, 32])`: parameters, buffers and the integers that follow them.
    """

    name: ClassVar[str] = "prune"
    target: str = "80%"
    importance: str = "taylor"
    allocation: str = "global"
    compensation: str | None = None
    kinds: tuple[str, ...] = ("auto",)
    steps: int = 1
    statistics: Statistics = "survivors"

    def run(self, graph: Graph, context: Context) -> Graph:
        request = self.request(context.source or graph)
        result = prune(graph, request, context.calibration or (), context.progress, context.source)
        for note in result.notes:
            context.log(note)
        return result.graph

    def request(self, source: Graph) -> Request:
        """The options resolved for a source model."""
        return Request(
            Budget(parse_target(self.target, source.parameter_count())),
            parse_spec("importance", self.importance),
            parse_spec("allocation", self.allocation),
            self.kinds,
            self.steps,
            statistics=self.statistics,
            compensation=parse_spec("compensation", self.compensation) if self.compensation else None,
        )
