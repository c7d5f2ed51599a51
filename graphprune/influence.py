"""Block influence: how much each residual branch turns the stream that it adds to."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from graphprune.analysis.groups import Branch, Groups
from graphprune.ir.graph import Graph
from graphprune.running.inputs import Batch, run_batch


def branch_influence(graph: Graph, groups: Groups, batches: Sequence[Batch]) -> dict[str, float]:
    """For each branch one minus the mean cosine between the stream before and after it (ShortGPT, arXiv 2403.03853).

    0 means that dropping the branch leaves the direction of every token's state as it was.
    """
    observed = observing(graph, groups.branches)
    totals = dict.fromkeys((b.id for b in groups.branches), 0.0)
    with torch.no_grad():
        for batch in batches:
            outputs = run_batch(observed, batch)[len(graph.outputs) :]
            for branch, skip, term in zip(groups.branches, outputs[::2], outputs[1::2], strict=True):
                totals[branch.id] += 1.0 - mean_cosine(skip, skip + term)
    return {id: total / max(1, len(batches)) for id, total in totals.items()}


def mean_cosine(left: Tensor, right: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(left.float(), right.float(), dim=-1).mean())


def observing(graph: Graph, branches: Sequence[Branch]) -> Graph:
    """The graph with the skip operand and the term of every branch as further outputs."""
    fork = graph.fork()
    nodes = {node.name: node for node in fork.nodes}
    extra: list[fx.Node] = [nodes[name] for branch in branches for name in (branch.skip, branch.branch)]
    output = fork.module.graph.output_node()
    output.args = ((*fork.results.values(), *extra),)
    fork.module.recompile()
    names = (f"{part}.{branch.id}" for branch in branches for part in ("skip", "term"))
    return replace(fork, outputs=(*graph.outputs, *names))
