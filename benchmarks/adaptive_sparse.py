"""AST against one-shot pruning and against training under a fixed mask, at equal steps.

    python benchmarks/adaptive_sparse.py --data-root ../shared/data [--only stories3M] [--pattern 2:4] [--steps 1500]
        [--seeds 3] [--first 0] [--rows wanda fixed ast no-kd] [--fixed-lr 4e-4] [--set decay=2,ramp=0.5]

Rows: `magnitude`, `wanda` and `solved` (`alternating`, which the recipe begins with) are cut once and not trained;
`fixed` trains what Wanda left, with the teacher, `fixed-largest` what magnitude leaves and `fixed-solved` what the
solver does, all at --fixed-lr; `ast` is the recipe, `no-kd` the same without a teacher. `ast-dense` and `no-kd-dense`
begin with dense weights, `no-pull` too and without a decay, `slorb` too and with side branches of one sum for 16
inputs. --set gives other options of the learner. Prints bits per byte on text that nothing was trained on or chosen by,
parameters and seconds, and means over the seeds, of which --first is the first.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from learned_masks import measure, surroundings

import graphprune
from graphprune.ir.graph import Graph
from graphprune.pipeline.passes import Context, Pass, run_passes
from graphprune.pipeline.recipes import read_recipe
from graphprune.spec import parse_spec
from graphprune.weights.patterns import kept_entries

MODELS = {"stories260K": "stories260K-hf", "stories3M": "stories3M-hf", "babyllama": "babyllama-tok105-hf"}
LENGTH, BATCH = 64, 8
ROWS: Mapping[str, tuple[str, ...]] = {
    "dense": (),
    "magnitude": ("sparsify{pattern=%(pattern)s,method=magnitude}",),
    "wanda": ("sparsify{pattern=%(pattern)s,method=wanda}",),
    "solved": ("sparsify{pattern=%(pattern)s}",),
    "fixed": ("sparsify{pattern=%(pattern)s,method=wanda}", "recover{%(kd)s,%(fixed)s}"),
    "fixed-largest": ("sparsify{pattern=%(pattern)s,method=magnitude}", "recover{%(kd)s,%(fixed)s}"),
    "fixed-solved": ("sparsify{pattern=%(pattern)s}", "recover{%(kd)s,%(fixed)s}"),
    "ast": ("sparsify{pattern=%(pattern)s}", "recover{learner=ast{pattern=%(pattern)s%(more)s},%(kd)s,%(same)s}"),
    "no-kd": ("sparsify{pattern=%(pattern)s}", "recover{learner=ast{pattern=%(pattern)s%(more)s},%(same)s}"),
    "ast-dense": ("recover{learner=ast{pattern=%(pattern)s%(more)s},%(kd)s,%(same)s}",),
    "no-kd-dense": ("recover{learner=ast{pattern=%(pattern)s%(more)s},%(same)s}",),
    "no-pull": ("recover{learner=ast{pattern=%(pattern)s,decay=0},%(kd)s,%(same)s}",),
    "slorb": ("recover{learner=ast{pattern=%(pattern)s,slorb=16%(more)s},%(kd)s,%(same)s}",),
}
USUAL = ("dense", "wanda", "solved", "fixed", "fixed-solved", "ast", "no-kd", "ast-dense")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", choices=tuple(MODELS), default=("stories3M",))
    parser.add_argument("--pattern", default="2:4")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", choices=tuple(ROWS), default=USUAL)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--lr", help="of ast, in place of the recipe's")
    parser.add_argument("--fixed-lr", default="4e-4")
    parser.add_argument("--set", dest="more", default="", help="other options of the learner: decay=2,ramp=0.5")
    given = parser.parse_args()
    for model in given.only:
        source = graphprune.capture(str(given.data_root / "models" / MODELS[model]))
        found: dict[str, list[float]] = {row: [] for row in given.rows}
        for seed in range(given.first, given.first + given.seeds):
            context = surroundings(given.data_root, source, 128, 128, seed)
            for row in given.rows:
                found[row].append(run_row(given, f"{model} {given.pattern} seed {seed} {row}", source, row, context))
        for row, values in found.items():
            print(f"{model} {given.pattern} {row}: {mean(values):.4f} bits per byte, mean of {len(values)}", flush=True)


def run_row(given: argparse.Namespace, told: str, source: Graph, row: str, context: Context) -> float:
    """The bits per byte of a row, which are printed with what it took."""
    began = time.monotonic()
    graph = run_passes(source, passes_of(given, row), context)
    seconds = time.monotonic() - began
    bits = measure(given.data_root, graph)
    zeros = sum(int((~kept).sum()) for kept in kept_entries(graph.companions).values())
    print(
        f"{told}: {bits:.4f} bits per byte, {graph.parameter_count():,} parameters, {zeros:,} zeros, {seconds:.0f} s",
        *(note for note in graph.notes if note.startswith("ast")),
        flush=True,
    )
    return bits


def passes_of(given: argparse.Namespace, row: str) -> list[Pass]:
    """The passes of a row: the recipe's training but for its length."""
    own: Mapping[str, Any] = read_recipe("ast").recover or {}
    kd = f"distill={own['distill']},temperature={own['temperature']}"
    names = ("min_lr", "schedule", "warmup", "weight_decay")
    rest = [f"{name}={own[name]}" for name in names]
    rest += [f"rows={BATCH}", f"length={LENGTH}", f"tokens={given.steps * BATCH * LENGTH}"]
    same, fixed = (",".join([f"lr={lr}", *rest]) for lr in (given.lr or own["lr"], given.fixed_lr))
    told = {"pattern": given.pattern, "kd": kd, "same": same, "fixed": fixed}
    told["more"] = f",{given.more}" if given.more else ""
    return [parse_spec("passes", spec % told) for spec in ROWS[row]]


if __name__ == "__main__":
    main()
