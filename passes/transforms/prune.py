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
    """Remove the least important units until the model has `target` parameters (`60%`, `1B`).

    Before `linear(x, w[44, 32])`, after `linear(x, w[27, 32])`: parameters, buffers and the integers that follow them.
    """

    name: ClassVar[str] = "prune"
    target: str = "80%"
    importance: str = "taylor"
    allocation: str = "global"
    kinds: tuple[str, ...] = ("auto",)
    steps: int = 1
    statistics: Statistics = "survivors"

    def run(self, graph: Graph, context: Context) -> Graph:
        budget = Budget(parse_target(self.target, graph.parameter_count()))
        importance, allocation = parse_spec("importance", self.importance), parse_spec("allocation", self.allocation)
        request = Request(budget, importance, allocation, self.kinds, self.steps, None, self.statistics)
        result = prune(graph, request, context.calibration or ())
        for note in result.notes:
            context.log(note)
        return result.graph
