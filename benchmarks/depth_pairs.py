"""Which layers the depth methods drop, beside all other choices: bits per byte of every layer, every pair or some sets.

    python benchmarks/depth_pairs.py MODEL --calibration TEXT --held TEXT [--drop 1,2] [--seeds 3] [--samples 128]
        [--length 64] [--part 50000] [--tokens N] [--window 256] [--no-bos] [--random 10]

Measured on the last `--part` bytes of the held text, of which `--tokens` are read. With `--random` so many sets drawn
by chance stand for all. Prints a table in Markdown, and a line for each bar that is missed: what a method chooses is no
worse than the mean of all sets, and `ablation-depth` within 2 % of the best.
"""

import argparse
import itertools
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import graphprune
from graphprune.analysis.analyse import analyze
from graphprune.analysis.layers import find_layers
from graphprune.budget.budgets import Budget
from graphprune.data.calibration import prepare_text
from graphprune.data.tokens import encode
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.pipeline.recipes import read_recipe
from graphprune.pruning.rounds import Request, Surroundings, prune
from graphprune.rewriting.apply import apply
from graphprune.running.perplexity import perplexity
from graphprune.spec import parse_spec

METHODS = ("shortgpt", "angular", "ablation-depth")
NEAR = 1.02  # of the best set's bits per byte, for ablation
Layers = tuple[int, ...]


@dataclass(eq=False)
class Subject:
    """A model with the text that it is measured on, and what was measured so far: the bits per byte of each set."""

    graph: Graph
    tokens: Tensor
    size: int
    window: int
    bos: int | None
    known: dict[Layers, float] = field(default_factory=dict)

    def bits(self, layers: Layers) -> float:
        """Bits per byte without these layers."""
        if layers not in self.known:
            parts = find_layers(analyze(self.graph))
            ids = tuple(branch.id for layer in layers for branch in parts[layer])
            small = apply(self.graph, Plan({}, ids)) if ids else self.graph
            stride = None if self.bos is not None else self.window
            rows = (self.tokens, self.window, 8)
            found = perplexity(small, *rows, stride=stride, bos=self.bos, text_bytes=self.size)
            assert found.bits_per_byte is not None
            self.known[layers] = found.bits_per_byte
            print(f"without {layers}: {found.bits_per_byte:.4f}", flush=True)
        return self.known[layers]


def choose(graph: Graph, method: str, count: int, batches: Sequence[Tensor], seed: int) -> Layers:
    """The layers that a recipe drops where `count` of them have to go."""
    recipe, parts = read_recipe(method), find_layers(analyze(graph))
    # As many parameters as are left without the last ones: layers are alike.
    ids = tuple(branch.id for layer in parts[len(parts) - count :] for branch in layer)
    request = Request(
        Budget(apply(graph, Plan({}, ids)).parameter_count()),
        parse_spec("importance", recipe.prune.importance),
        parse_spec("allocation", recipe.prune.allocation),
        ("layers",),
    )
    dropped = set(prune(graph, request, batches, Surroundings(seed=seed)).plan.dropped)
    found = tuple(place for place, layer in enumerate(parts) if {branch.id for branch in layer} <= dropped)
    print(f"{method}, seed {seed}: {found}", flush=True)
    return found


def sets_of(layers: int, count: int, some: int | None) -> list[Layers]:
    """All sets of so many layers, or `some` of them by chance."""
    if some is None:
        return list(itertools.combinations(range(layers), count))
    draw = random.Random(0)
    return [tuple(sorted(draw.sample(range(layers), count))) for _ in range(some)]


def names(layers: Layers) -> str:
    return ", ".join(map(str, layers))


def table(subject: Subject, name: str, count: int, sets: Sequence[Layers], found: dict[str, list[Layers]]) -> list[str]:
    """The rows of one count of layers, and what is to be said of bars that are missed."""
    every = {each: subject.bits(each) for each in sets}
    mean, best = statistics.fmean(every.values()), min(every, key=lambda each: every[each])
    shown = [f"{mean:.3f} | {every[best]:.3f} ({names(best)})"]
    missed = []
    for method, chosen in found.items():
        values = [subject.bits(each) for each in chosen]
        shown.append(", ".join(f"{v:.3f} ({names(c)})" for c, v in dict(zip(chosen, values, strict=True)).items()))
        missed += [f"{name}, {count}: {method} is above the mean of all"] * (statistics.fmean(values) > mean)
        far = statistics.fmean(values) / every[best] - 1
        if method == "ablation-depth" and far > NEAR - 1:
            missed.append(f"{name}, {count}: {method} is {far:.1%} above the best")
    return [f"| {name} ({subject.bits(()):.3f}) | {count} | {' | '.join(shown)} |", *missed]


def read_part(given: argparse.Namespace) -> str:
    """The end of the held text, from the beginning of a line."""
    part: str = given.held.read_bytes()[-given.part :].decode("utf-8", "ignore")
    return part.partition("\n")[2] or part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--held", type=Path, required=True)
    parser.add_argument("--drop", type=lambda text: [int(each) for each in text.split(",")], default=[1, 2])
    parser.add_argument("--random", type=int)
    parser.add_argument("--no-bos", action="store_true")
    for option, default in (("seeds", 3), ("samples", 128), ("length", 64), ("part", 50_000), ("window", 256)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--tokens", type=int)
    given = parser.parse_args()
    source, held = graphprune.capture(str(given.model), dtype=torch.float32), read_part(given)
    texts = [
        prepare_text(source, str(given.calibration), given.samples, given.length, seed) for seed in range(given.seeds)
    ]
    tokenizer = texts[0].tokenizer
    assert tokenizer is not None
    tokens = encode(tokenizer, [held])[: given.tokens]
    size = len(tokenizer.decode(tokens).encode()) if given.tokens else len(held.encode())
    subject = Subject(source, tokens, size, given.window, None if given.no_bos else texts[0].bos)
    count_of_layers = len(find_layers(analyze(source)))
    lines = ["| model (dense) | dropped | mean of all | best | " + " | ".join(METHODS) + " |", "|---" * 7 + "|"]
    for count in given.drop:
        found = {m: [choose(source, m, count, text.batches, s) for s, text in enumerate(texts)] for m in METHODS}
        lines += table(subject, given.model.name, count, sets_of(count_of_layers, count, given.random), found)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
