"""The solvers of zeros side by side on single linear layers of a model: error left, and seconds of processor.

    python benchmarks/sparse_solvers.py MODEL --data TEXT [--patterns 50%,2:4] [--layers 0,3] [--samples 128]
        [--length 128]

Every call reads what it reads in the dense model. Errors are E|W x - y|² over E|y|², means over the calls.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

import graphprune
from graphprune.analysis.analyse import analyze
from graphprune.analysis.layers import find_layers
from graphprune.data.calibration import prepare_text
from graphprune.pruning.activations.moments import Moments
from graphprune.pruning.reconstruct import Solution, Target, reconstruct
from graphprune.pruning.sparsity.fista import Fista
from graphprune.pruning.sparsity.places import find_places
from graphprune.pruning.sparsity.problem import Problem
from graphprune.pruning.sparsity.solving import PatternSolver
from graphprune.weights.patterns import Share, parse_pattern

SOLVERS = {
    "magnitude": PatternSolver("magnitude", Share(0.5)),
    "wanda": PatternSolver("wanda", Share(0.5)),
    "sparsegpt": PatternSolver("sparsegpt", Share(0.5)),
    "zeros of wanda, least squares": PatternSolver("least-squares", Share(0.5), "wanda"),
    "zeros of sparsegpt, least squares": PatternSolver("least-squares", Share(0.5)),
    "fista from wanda, search=paper": PatternSolver("fista", Share(0.5), "wanda", fista=Fista(search="paper")),
    "fista from wanda": PatternSolver("fista", Share(0.5), "wanda"),
    "fista from sparsegpt": PatternSolver("fista", Share(0.5)),
    "fista from sparsegpt, 60 rounds": PatternSolver("fista", Share(0.5), fista=Fista(patience=20, eps=0.0, rounds=60)),
    "alternating": PatternSolver("alternating", Share(0.5)),
}


@final
@dataclass(frozen=True)
class Collector:
    """A solver that keeps the problems and changes nothing."""

    found: list[Problem] = field(default_factory=list)
    work: torch.dtype = torch.float32

    def __call__(self, seen: Moments, weight: Tensor, targets: Iterator[Target], centred: bool) -> Solution:
        moment = torch.cat([target.moment for target in targets], 1)
        self.found.append(Problem.of(weight, seen.gram.float(), moment.T.float()))
        return Solution(weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--patterns", default="50%,2:4")
    parser.add_argument("--layers", default="0,3")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=128)
    given = parser.parse_args()
    source = graphprune.capture(given.model, dtype=torch.float32)
    text = prepare_text(source, given.data, given.samples, given.length, 0)
    layers = "|".join(given.layers.split(","))
    places = find_places(source, Share(0.5), rf"\.({layers})\.(self_attn\.[qo]|mlp\.(gate|down))_proj", ())
    starts = frozenset(layer[0].skip for layer in find_layers(analyze(source)))
    collector = Collector()
    reconstruct(source, source, places.calls, collector, text.batches, target="output", restart=starts)
    print(f"{len(collector.found)} calls\n\n| pattern | solver | error | seconds |\n|---|---|---:|---:|")
    for pattern in given.patterns.split(","):
        for name, solver in SOLVERS.items():
            error, spent = measure(solver, pattern, collector.found)
            print(f"| {pattern} | {name} | {error:.4f} | {spent:.2f} |", flush=True)


def measure(solver: PatternSolver, pattern: str, problems: list[Problem]) -> tuple[float, float]:
    per = "row" if solver.method == "wanda" else "matrix"
    start = parse_pattern(pattern, "row" if solver.start == "wanda" else "matrix")
    own = PatternSolver(solver.method, parse_pattern(pattern, per), solver.start, start, 0.0, solver.fista)
    errors, began = 0.0, time.process_time()
    for each in problems:
        errors += each.error(own.solve(each)) / float((each.weight * (each.weight @ each.gram)).sum())
    return errors / len(problems), time.process_time() - began


if __name__ == "__main__":
    main()
