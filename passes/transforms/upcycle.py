"""The upcycle pass: every dense MLP becomes equal experts behind a router (sparse upcycling, arXiv 2212.05055)."""

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

from annotated_types import Ge

from graphprune.analysis.analyse import analyze
from graphprune.bounds import Count, require_limits
from graphprune.edits.experts import Experts, find_mlp
from graphprune.errors import PlanError, UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Edit, Plan
from graphprune.pipeline.passes import Context, Pass
from graphprune.rewriting.apply import apply
from graphprune.spec import print_spec
from graphprune.weights.stored import any_stored


@final
@dataclass(frozen=True)
class Upcycle(Pass):
    """Make `experts` equal experts of each dense MLP, of which the router gives each token the best `top`.

    Before `linear(act(linear(x, w1)), w2)`, after the same for the experts picked for each token, summed by their
    shares: the function stays, until training tells the experts apart. `scope` is a regular expression that is sought
    in the names of modules. With one expert a token the router is not trained, as in CPM-2.
    """

    name: ClassVar[str] = "upcycle"
    reshapes: ClassVar[bool] = True
    experts: Annotated[int, Ge(2)] = 4
    top: Count = 2
    scope: str | None = None

    def __post_init__(self) -> None:
        require_limits(self, self.name)
        try:
            Experts(self.experts, self.top, 0)
            re.compile(self.scope or "")
        except (ValueError, re.error) as error:
            raise UsageError(f"upcycle: {error}") from error

    def edits(self, graph: Graph, seed: int) -> tuple[Edit, ...]:
        kind = print_spec(Experts(self.experts, self.top, seed))
        return tuple(Edit(kind, id) for id in self.find(graph)[0])

    def run(self, graph: Graph, context: Context) -> Graph:
        if any_stored(graph.tensors().values()):
            raise UsageError("upcycle copies every MLP, and these weights stay in their file; raise --memory")
        edits, left = self.edits(graph, context.seed), self.find(graph)[1]
        if left:
            context.log(f"upcycle leaves {len(left)} as they are: {left[0]}")
        made = apply(graph, Plan(edits=edits))
        return made.note(f"{len(edits)} MLPs became {self.experts} experts each, {self.top} of them for a token")

    def find(self, graph: Graph) -> tuple[list[str], list[str]]:
        """The groups that are channels of a dense MLP, and what stands in the way of others. Raises UsageError."""
        found, left = list[str](), list[str]()
        for group in analyze(graph).groups:
            if group.kind == "mlp" and re.search(self.scope or "", group.scope):
                try:
                    find_mlp(graph, group.id)
                    found.append(group.id)
                except PlanError as error:
                    left.append(str(error))
        if not found:
            why = left[0] if left else "there are no channels of one in scope"
            raise UsageError(f"upcycle finds no dense MLP here: {why}")
        return found, left
