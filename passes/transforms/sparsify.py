"""The sparsify pass: weights that are zero in a pattern, layer by layer, on inputs that carry the errors before."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from graphprune.analysis.linear_calls import LinearCall
from graphprune.bounds import Count, NotNegative, Share, require_limits
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Lineage
from graphprune.ir.placement import place_like
from graphprune.pipeline.passes import Context, Pass
from graphprune.pruning.reconstruct import reconstruct
from graphprune.pruning.sparsity.fista import Fista, Search
from graphprune.pruning.sparsity.places import find_places
from graphprune.pruning.sparsity.solutions import SolutionFolder
from graphprune.pruning.sparsity.solving import Method, PatternSolver, Start
from graphprune.weights.patterns import (
    Pattern,
    Per,
    kept_by_zeros,
    kept_entries,
    parse_pattern,
    without_patterns,
)
from graphprune.weights.stored import real


@dataclass(frozen=True)
class Searched:
    """FISTA's own options: see `Fista`."""

    steps: Count = Fista.steps
    patience: Count = Fista.patience
    xi: Share = Fista.xi
    eps: NotNegative = Fista.eps
    rounds: Count = Fista.rounds
    search: Search = Fista.search


# Fields come from the last base first, and are printed in that order.
@final
@dataclass(frozen=True)
class Sparsify(Pass, Searched):
    """Set weights of linear layers to zero in a `pattern`: a share of zeros (`50%`), or `2:4` along inputs.

    `method` says which, and what the others become: `magnitude`, `wanda`, `sparsegpt`, `fista` (l1 and rounding) from
    the weights of `start`, `least-squares` on the zeros of `start`, or `alternating` directions. A share is of each
    matrix, or `per` row. Layers read what those before give; `errors=layer` begins every layer anew with what the dense
    model has there, `errors=none` every weight. Weights aim at what they gave in the dense model, or with
    `target=stream` at the sum that their branch goes into. `auto` is what each method's paper does. `damping`, of each
    input's own energy, holds weights near what they were: 0, or for `alternating` as much as least squares has. `scope`
    and `skip` are regular expressions of the weights that are meant and of those that are left dense.

    Before `linear(x, w[44, 32])`, after the same with zeros in `w`, which stay: cuts, training and least squares keep
    them.
    """

    name: ClassVar[str] = "sparsify"
    pattern: str = "50%"
    method: Method = "alternating"
    start: Start = "sparsegpt"
    per: Literal["auto", "matrix", "row"] = "auto"
    target: Literal["auto", "output", "stream"] = "auto"
    errors: Literal["auto", "all", "layer", "none"] = "auto"
    damping: NotNegative | None = None
    scope: str | None = None
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_limits(self, self.name)
        parse_pattern(self.pattern)
        for text in (self.scope or "", *self.skip):
            try:
                re.compile(text)
            except re.error as error:
                raise UsageError(f"scope and skip of sparsify are regular expressions, not {text}: {error}") from error

    def run(self, graph: Graph, context: Context) -> Graph:
        pattern = self.pattern_for(self.method)
        here = replace(context.placed(graph), companions=without_patterns(graph.companions), lineage=Lineage())
        places = find_places(here, pattern, self.scope, self.skip)
        solved = self.solve(here, places.calls, places.starts, pattern, context)
        solved = replace(place_like(solved, graph), lineage=graph.lineage)
        found = with_patterns(solved, places.calls, pattern)
        context.log(describe(found))
        return found.note(*places.notes)

    def solve(
        self, graph: Graph, calls: Sequence[LinearCall], starts: frozenset[str], pattern: Pattern, context: Context
    ) -> Graph:
        """The graph with these calls' weights in the pattern."""
        if self.method == "magnitude":
            return by_magnitude(graph, calls, pattern)
        batches = context.windows(len(graph.history))  # each stage has its own
        if not batches:
            raise UsageError(f"sparsify{{method={self.method}}} looks at text; give --data, or method=magnitude")
        start = self.pattern_for(self.start)
        solver = PatternSolver(self.method, pattern, self.start, start, self.damping, self.fista)
        errors = self.errors if self.errors != "auto" else "layer" if self.method == "fista" else "all"
        target = self.target if self.target != "auto" else "stream" if self.method == "alternating" else "output"
        return reconstruct(
            graph,
            graph,
            calls,
            solver,
            batches,
            target=target,
            sequential=errors != "none",
            restart=starts if errors == "layer" else frozenset(),
            progress=partial(context.progress, f"making weights sparse ({self.method})"),
            solutions=SolutionFolder(context.folder / "solved") if context.folder is not None else None,
        )

    def pattern_for(self, method: Method) -> Pattern:
        """The pattern with its shares of what the method's paper has them of, unless `per` says it."""
        own: Per = "row" if method == "wanda" else "matrix"
        return parse_pattern(self.pattern, own if self.per == "auto" else self.per)

    @property
    def fista(self) -> Fista:
        return Fista(self.steps, self.patience, self.xi, self.eps, self.rounds, self.search)


def by_magnitude(graph: Graph, calls: Sequence[LinearCall], pattern: Pattern) -> Graph:
    """The graph with the largest weights of these calls, which needs no text."""
    tensors, new = graph.tensors(), dict[str, Tensor]()
    for call in calls:
        weight = call.matrix(real(tensors[call.weight]).detach())
        new[call.weight] = torch.nn.Parameter(call.matrix(weight * pattern.keep(weight.abs())).contiguous())
    return graph.with_tensors(new)


def with_patterns(graph: Graph, calls: Sequence[LinearCall], pattern: Pattern) -> Graph:
    """The graph with what is not zero of these calls' weights as what is kept of them."""
    tensors, kinds = graph.tensors(), dict[str, dict[str, Tensor]]()
    for call in calls:
        kind = pattern.kind(0 if call.transposed else 1)
        kinds.setdefault(kind, {})[call.weight] = kept_by_zeros(tensors[call.weight]).cpu()
    return replace(graph, companions={**graph.companions, **kinds})


def describe(graph: Graph) -> str:
    """One line about the zeros of a graph."""
    kept = kept_entries(graph.companions).values()
    zeros, size = sum(int((~each).sum()) for each in kept), sum(each.numel() for each in kept)
    return f"sparsify: {zeros:,} zeros among the {size:,} weights of {len(kept)} linear layers"
