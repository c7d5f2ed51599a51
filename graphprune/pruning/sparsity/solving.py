"""Solving: the methods that give a linear call a weight with a pattern, by name, as solvers of a reconstruction."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import Tensor

from graphprune.pruning.activations.moments import Moments
from graphprune.pruning.reconstruct import Solution, Target
from graphprune.pruning.ridge import Ridge
from graphprune.pruning.sparsity.alternating import alternate
from graphprune.pruning.sparsity.fista import Fista, fista_prune
from graphprune.pruning.sparsity.problem import Problem
from graphprune.pruning.sparsity.support import solve_on_support
from graphprune.pruning.sparsity.surgeon import sparse_gpt
from graphprune.weights.patterns import Pattern

Start = Literal["magnitude", "wanda", "sparsegpt"]
Method = Literal["magnitude", "wanda", "sparsegpt", "fista", "least-squares", "alternating"]


def by_magnitude(problem: Problem, pattern: Pattern) -> Tensor:
    """The largest weights, as they are."""
    return problem.weight * pattern.keep(problem.weight.abs())


def wanda(problem: Problem, pattern: Pattern) -> Tensor:
    """The weights with the largest |w| √E[x²] (arXiv 2306.11695), as they are."""
    return (
        problem.weight * pattern.keep(problem.weight.abs() * problem.gram.diagonal().clamp(min=0).sqrt()) * problem.live
    )


SIMPLE: Mapping[str, Callable[[Problem, Pattern], Tensor]] = {
    "magnitude": by_magnitude,
    "wanda": wanda,
    "sparsegpt": sparse_gpt,
}


@final
@dataclass(frozen=True, eq=False)
class PatternSolver:
    """Gives calls weights with a pattern, by a method; `start` is where FISTA and least squares begin.

    What these find is never worse than the start, by what it gives on the text. Errors are counted with `damping` of
    each input's own energy for what weights change by: without a number none, or for alternating directions as much as
    for least squares.
    """

    method: Method
    pattern: Pattern
    start: Start = "sparsegpt"
    start_pattern: Pattern | None = None
    damping: float | None = None
    fista: Fista = field(default_factory=Fista)
    work: torch.dtype = torch.float32

    def __call__(self, seen: Moments, weight: Tensor, targets: Iterator[Target], centred: bool) -> Solution:
        moment = torch.cat([target.moment for target in targets], 1)
        damping = Ridge(self.damping).damping_of(seen) if self.method == "alternating" else self.damping or 0.0
        problem = Problem.of(weight.to(self.work), seen.gram.to(self.work), moment.T.to(self.work), damping)
        return Solution(self.solve(problem).to(weight))

    def solve(self, problem: Problem) -> Tensor:
        """The weight with the pattern."""
        if self.method in SIMPLE:
            return SIMPLE[self.method](problem, self.pattern)
        if self.method == "alternating":
            return alternate(problem, self.pattern)
        start = SIMPLE[self.start](problem, self.start_pattern or self.pattern)
        if self.method == "fista":
            return fista_prune(problem, self.pattern, start, self.fista)[0]
        found = solve_on_support(problem.gram, problem.cross, start != 0, start)
        return found if problem.error(found) <= problem.error(start) else start
