"""Observe: sums over batches equal brute force on all activations, in any split, and no activation outlives its use."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.ir.graph import Graph
from graphprune.pruning.activations.observe import Reading, observe
from graphprune.pruning.activations.reductions import squares, tokens, total
from graphprune.running.inputs import Batch, run_batch
from tests.support.families import analysis, graph
from tests.support.oracle import double

IDS = torch.randint(3, 60, (8, 11), generator=torch.Generator().manual_seed(0))


def activations(graph: Graph, names: list[str]) -> dict[str, Tensor]:
    """The values of these nodes on all rows at once, by making them outputs."""
    fork = graph.fork()
    nodes = {node.name: node for node in fork.nodes}
    fork.module.graph.output_node().args = ((*fork.results.values(), *(nodes[name] for name in names)),)
    fork.module.recompile()
    with torch.no_grad():
        values = run_batch(replace(fork, outputs=(*graph.outputs, *names)), IDS)
    return dict(zip(names, values[len(graph.outputs) :], strict=True))


def spread(batch: Batch, left: Tensor, right: Tensor) -> Tensor:
    return (left - right).double().square().sum().reshape(1)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("sizes", [(8,), (1, 3, 4), (1,) * 8], ids=str)
def test_sums_equal_brute_force_in_any_split(name: str, sizes: tuple[int, ...]) -> None:
    wide, branches = double(graph(name)), analysis(name).groups.branches
    nodes = [call.x.name for call in find_linear_calls(wide, shared=True)]
    singles = {(node, r): Reading((node,), r) for node in nodes for r in (tokens, total, squares)}
    # Two nodes far apart: the first is kept for the second.
    pair = (branches[0].skip, branches[-1].add)
    found = observe(wide, {**singles, ("pair", spread): Reading(pair, spread)}, IDS.split(list(sizes)))
    seen = activations(wide, [*dict.fromkeys(nodes), *pair])
    for node in nodes:
        rows = seen[node].flatten(0, -2)
        assert found[node, tokens].item() == len(rows)
        for reduction, expected in ((total, rows.sum(0)), (squares, rows.square().sum(0))):
            assert torch.allclose(found[node, reduction], expected, rtol=1e-12, atol=1e-12)
    assert found["pair", spread].item() == pytest.approx(float((seen[pair[0]] - seen[pair[1]]).square().sum()), 1e-12)


def test_statistics_are_wide_whatever_the_values_are_in() -> None:
    narrow = torch.full((1, 4096, 1), 0.1, dtype=torch.bfloat16)
    for reduction, value in ((total, 0.1), (squares, 0.01)):
        found = reduction(IDS, narrow)
        assert found.dtype == torch.float64
        assert found.item() == pytest.approx(4096 * value, rel=1e-2)
    assert squares(IDS, narrow).item() == 4096 * narrow[0, 0, 0].double().square().item()


def test_an_activation_is_freed_with_its_last_use() -> None:
    tiny, alive = graph("llama"), list[weakref.ref[Tensor]]()
    calls = [call for call in find_linear_calls(tiny) if "down_proj" in call.weight or "o_proj" in call.weight]

    def watch(_: Batch, value: Tensor) -> Tensor:
        assert sum(reference() is not None for reference in alive) == 0
        alive.append(weakref.ref(value))
        return torch.zeros(1)

    observe(tiny, {call.x.name: Reading((call.x.name,), watch) for call in calls}, [IDS[:4], IDS[4:]])
    assert len(alive) == 2 * len(calls) >= 8


def test_nothing_runs_behind_the_last_node_that_is_read() -> None:
    tiny = graph("llama")
    first = find_linear_calls(tiny)[0]
    head = find_linear_calls(tiny, shared=True)[-1]
    broken = tiny.with_tensors({head.weight: torch.nn.Parameter(torch.empty(0))})
    found = observe(broken, {"x": Reading((first.x.name,), total)}, [IDS])
    assert torch.equal(found["x"], observe(tiny, {"x": Reading((first.x.name,), total)}, [IDS])["x"])


def test_without_readings_or_batches_nothing_is_found() -> None:
    told = list[tuple[int, int]]()
    assert observe(graph("llama"), {}, [IDS], lambda *now: told.append(now)) == {}
    assert observe(graph("llama"), {"x": Reading(("logits",), total)}, []) == {}
    assert told == [(0, 1)]
