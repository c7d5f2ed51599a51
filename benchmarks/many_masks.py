"""How fast many masks of one model are evaluated: at once through gates, one after the other, and as masked weights.

    python benchmarks/many_masks.py [MODEL] [--masks 1000] [--at-once 50] [--rows 1] [--length 64] [--threads 1]

Each mask keeps 70 % of the units of every attention group, MLP and of the residual stream, drawn from its own seed, and
is a loss on the same rows of tokens. Prints a table in Markdown, and by how much the losses of the ways differ at most.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import graphprune
from graphprune.analysis.groups import Group
from graphprune.gates.gated import Gated, gate
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.rewriting.masked import masked
from graphprune.running.inputs import decoder_inputs

KINDS = frozenset({"attention", "mlp", "residual"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    graph = graphprune.capture(given.model)
    candidates = [group for group in graphprune.analyze(graph).prunable() if group.kind in KINDS]
    shape = given.rows, given.length
    ids = torch.randint(int(graph.results["logits"].meta["value"].shape[-1]), shape, generator=seeded(0))
    masks = [draw(candidates, seed) for seed in range(given.masks)]
    model = gate(graph, candidates)
    ways = {
        f"gates, {given.at_once} at once": lambda: at_once(graph, model, masks, ids, given.at_once),
        "gates, one after the other": lambda: at_once(graph, model, masks, ids, 1),
        "masked weights, one after the other": lambda: one_by_one(graph, masks, ids),
    }
    print(f"{given.model}: {graph.parameter_count():,} parameters, {len(candidates)} gates; {given.masks} masks on")
    print(f"{given.rows} x {given.length} tokens, {given.threads} thread, torch {torch.__version__}\n")
    print("| way | seconds | masks a second | times the first |\n|---|---|---|---|")
    found = dict(timed(ways))
    worst = max(float((losses - next(iter(found.values()))).abs().max()) for losses in found.values())
    print(f"\nlargest difference of two losses of one mask: {worst:.1e}")


def timed(ways: dict[str, Callable[[], Tensor]]) -> Sequence[tuple[str, Tensor]]:
    found, first = [], 0.0
    for name, way in ways.items():
        began = time.perf_counter()
        losses = way()
        seconds = time.perf_counter() - began
        first = first or seconds
        print(f"| {name} | {seconds:.1f} | {len(losses) / seconds:.1f} | {seconds / first:.2f} |", flush=True)
        found.append((name, losses))
    return found


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(candidates: Sequence[Group], seed: int) -> dict[str, Tensor]:
    """A mask: factors of 0 and 1, as many ones in each group as 70 % of its units, one at least."""
    generator, mask = seeded(seed), {}
    for group in candidates:
        kept = torch.randperm(group.units, generator=generator)[: max(1, int(0.7 * group.units))]
        mask[group.id] = torch.zeros(group.units).index_fill(0, kept, 1)
    return mask


def loss_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross entropy of the next token."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def at_once(graph: Graph, model: Gated, masks: Sequence[dict[str, Tensor]], ids: Tensor, count: int) -> Tensor:
    found = []
    for start in range(0, len(masks), count):
        some = masks[start : start + count]
        values = {id: torch.stack([mask[id] for mask in some]) for id in some[0]}
        rows = ids.repeat(len(some), 1)
        logits = dict(zip(graph.outputs, model(values, *decoder_inputs(graph, rows)), strict=True))["logits"]
        # Mask by mask: what one takes is still at hand when it is read, which that of fifty is not.
        found += [loss_of(part, ids) for part in logits.split(len(ids))]
    return torch.stack(found)


@torch.no_grad()
def one_by_one(graph: Graph, masks: Sequence[dict[str, Tensor]], ids: Tensor) -> Tensor:
    model, found = masked(graph), []
    for mask in masks:
        plan = Plan({id: tuple(torch.nonzero(units).flatten().tolist()) for id, units in mask.items()})
        logits = dict(zip(graph.outputs, model(plan, *decoder_inputs(graph, ids)), strict=True))["logits"]
        found.append(loss_of(logits, ids))
    return torch.stack(found)


if __name__ == "__main__":
    main()
