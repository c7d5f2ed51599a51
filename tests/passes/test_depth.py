"""Depth: each score of layers against its formula, what scores nothing goes first, and runs of layers."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from graphprune import Graph
from graphprune.analysis.analyse import analyze
from graphprune.analysis.layers import find_layers
from graphprune.budget.budgets import Budget
from graphprune.errors import BudgetError, DataError, UsageError
from graphprune.ir.plan import Plan
from graphprune.passes.allocation.contiguous import Contiguous
from graphprune.passes.allocation.uniform import Uniform
from graphprune.passes.importance.ablation import Ablation
from graphprune.passes.importance.angular import Angular
from graphprune.passes.importance.block_influence import BlockInfluence
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.pruning.blocks import find_blocks
from graphprune.pruning.interfaces import Importance, Scene, view
from graphprune.pruning.layer_runs import block_runs, find_runs, join_parallel, measure_angles
from graphprune.pruning.rounds import Request, prune
from graphprune.pruning.signals.stream_change import UNMEASURED, cosine, sum_measured
from graphprune.rewriting.apply import apply
from graphprune.running.loss import batch_loss
from tests.support.deep_llama import IDS, deep_graph, deep_llama
from tests.support.families import analysis
from tests.support.families import graph as family

pytestmark = pytest.mark.xdist_group("depth")
IMPORTANCES = (BlockInfluence(), Angular(), Ablation())


def scene(graph: Graph, kind: str, share: float = 1.0) -> Scene:
    groups = analyze(graph)
    budget = Budget(max(1, int(share * graph.parameter_count())))
    return view(graph, find_blocks(groups, (kind,)), IDS.split(3), budget=budget)


def states() -> list[Tensor]:
    """The stream before the first layer and behind each, in float64, by hooks."""
    network, found = deep_llama(), list[Tensor]()
    hooks: list[Any] = [network.model.layers[0].register_forward_pre_hook(lambda m, a: found.append(a[0]))]
    for layer in network.model.layers:
        hooks.append(layer.register_forward_hook(lambda m, a, o: found.append(o[0] if isinstance(o, tuple) else o)))
    with torch.no_grad():
        network(IDS)
    for hook in hooks:
        hook.remove()
    return [state.double() for state in found]


def angle(a: Tensor, b: Tensor) -> float:
    return math.acos(float((a * b).sum() / math.sqrt(float((a * a).sum()) * float((b * b).sum()))))


def test_layers_against_loops_over_tokens() -> None:
    x, graph = states(), deep_graph()
    influence, angular = (i.score_blocks(scene(graph, "layers")) for i in (BlockInfluence(), Angular()))
    for number, layer in enumerate(find_layers(analyze(graph))):
        before, after = x[number], x[number + 1]
        turns = [
            1 - math.cos(angle(a, b)) for p, q in zip(before, after, strict=True) for a, b in zip(p, q, strict=True)
        ]
        ends = [angle(a[-1], b[-1]) / math.pi for a, b in zip(before, after, strict=True)]
        for branch in layer:
            assert float(influence[branch.id]) == pytest.approx(sum(turns) / len(turns), rel=1e-4)
            assert float(angular[branch.id]) == pytest.approx(sum(ends) / len(ends), rel=1e-4)


@pytest.mark.parametrize("kind", ["layers", "blocks"])
def test_ablation_is_the_rise_of_the_loss_without_the_layer(kind: str) -> None:
    graph = deep_graph()
    found = Ablation().score_blocks(scene(graph, kind))
    groups = analyze(graph)
    parts = find_layers(groups) if kind == "layers" else [(branch,) for branch in groups.branches]
    for part in parts:
        without = apply(graph, Plan({}, tuple(branch.id for branch in part)))
        with torch.no_grad():
            rise = float(batch_loss(without, IDS)) - float(batch_loss(graph, IDS))
        for branch in part:
            assert float(found[branch.id]) == pytest.approx(rise, abs=1e-5)


def dead(graph: Graph, layer: int) -> Graph:
    """The graph with a layer that adds nothing."""
    names = [f"model.layers.{layer}.{name}.weight" for name in ("self_attn.o_proj", "mlp.down_proj")]
    return graph.with_tensors({n: torch.nn.Parameter(torch.zeros_like(graph.parameters()[n])) for n in names})


@pytest.mark.parametrize("importance", IMPORTANCES, ids=lambda i: i.name)
def test_a_layer_that_adds_nothing_scores_nothing_and_goes_first(importance: Importance) -> None:
    graph = dead(deep_graph(), 2)
    for kind in ("layers", "blocks"):
        at = scene(graph, kind)
        scores = {id: float(score) for id, score in importance.score_blocks(at).items()}
        idle = {id for id in scores if "layers.2." in id}
        assert all(scores[id] == 0.0 for id in idle)
        assert all(abs(score) > 1e-6 for id, score in scores.items() if id not in idle)
    gone = find_layers(analyze(graph))[2]
    target = apply(graph, Plan({}, tuple(b.id for b in gone))).parameter_count()
    pruned = prune(graph, Request(Budget(target), importance, Uniform(), ("layers",)), [IDS])
    if importance.name != "ablation":  # where it is better without a layer, that one goes first
        assert set(pruned.plan.dropped) == {branch.id for branch in gone}


def test_a_state_without_a_direction_counts_as_not_turned_and_is_told() -> None:
    source = family("gpt2")
    names = ("transformer.wte.weight", "transformer.wpe.weight")  # biases turn nothing into something
    silent = source.with_tensors({n: torch.nn.Parameter(torch.zeros_like(source.parameters()[n])) for n in names})
    for importance in (BlockInfluence(), Angular()):
        for graph, notes in ((silent, [UNMEASURED]), (source, [])):
            told: list[str] = []
            scores = importance.score_blocks(replace(scene(graph, "layers"), note=told.append))
            assert told == notes
            assert (float(next(iter(scores.values()))) == 0.0) == bool(notes)
    assert sum_measured(1 - cosine(torch.zeros(1, 3), torch.ones(1, 3))).tolist() == [0, 1, 1]
    one = torch.tensor([[1e-30, 1.0, math.pi]])
    assert float(cosine(one, one)) == 1.0
    assert float(cosine(one, -one)) == pytest.approx(-1.0)


def test_the_run_whose_ends_are_least_apart_goes() -> None:
    x, graph = states(), deep_graph()
    layers, full = find_layers(analyze(graph)), graph.parameter_count()
    for length in (1, 2, 3):
        ends = [(x[s], x[s + length]) for s in range(len(layers) - length + 1)]
        wanted = [sum(angle(a[-1], b[-1]) / math.pi for a, b in zip(p, q, strict=True)) / len(IDS) for p, q in ends]
        at = scene(graph, "layers")
        runs = find_runs(graph, at.groups, layers, length)
        assert measure_angles(at, runs, "x") == pytest.approx(wanted, rel=1e-4)
        best = wanted.index(min(wanted))
        gone = {branch.id for layer in layers[best : best + length] for branch in layer}
        target = apply(graph, Plan({}, tuple(gone))).parameter_count()
        pruned = prune(graph, Request(Budget(target), Angular(), Contiguous(by="angular"), ("layers",)), [IDS])
        assert set(pruned.plan.dropped) == gone
        assert pruned.graph.parameter_count() == target < full


def test_a_run_by_scores_is_that_of_the_least_sum() -> None:
    graph = deep_graph()
    layers = find_layers(analyze(graph))
    at = scene(graph, "layers", 0.7)
    values = dict(zip((layer[0].id for layer in layers), (1.0, 5.0, 2.0, 2.5), strict=True))
    scores = {b.id: torch.tensor([values[layer[0].id]]) for layer in layers for b in layer}
    counts = Contiguous().keep(at, scores).counts
    kept = [layer[0].id for layer in layers if counts[layer[0].id]]
    assert kept == [layers[0][0].id, layers[1][0].id]


def test_no_run_crosses_streams_or_parts_what_is_parallel() -> None:
    groups = analysis("clip").groups
    layers = find_layers(groups)
    pairs = find_runs(family("clip"), groups, layers, 2)
    assert [run.parts for run in pairs] == [tuple(layers[:2]), tuple(layers[2:])]
    falcon = analysis("falcon").groups
    parts = block_runs(falcon, find_blocks(falcon, ("blocks",)))
    assert [len(part) for part in join_parallel(parts)] == [2, 2]
    apart = find_runs(family("clip"), groups, (layers[0], layers[1][1:]), 2)
    assert apart == ()


def test_what_is_asked_in_vain_is_told_in_one_line() -> None:
    graph = deep_graph()
    with pytest.raises(BudgetError, match=r"run of 3 of 4 layers .* are left"):
        Contiguous().keep(scene(graph, "layers", 0.01), {b.id: torch.zeros(1) for b in analyze(graph).branches})
    with pytest.raises(UsageError, match="use --prune layers"):
        Contiguous().keep(view(graph), {})
    for importance in IMPORTANCES:
        said = "scores layers and residual branches alone" if importance.name != "ablation" else "measures the loss"
        with pytest.raises(UsageError, match=f"{importance.name} {said}"):
            importance.score(view(graph))
        empty = replace(scene(graph, "layers"), batches=())
        with pytest.raises(UsageError, match="--data"):
            importance.score_blocks(empty)
    broken = graph.with_tensors({"model.norm.weight": torch.nn.Parameter(torch.full((16,), math.nan))})
    with pytest.raises(DataError, match="not finite"):
        Ablation().score_blocks(scene(broken, "layers"))
    whole = Contiguous().keep(scene(graph, "layers"), {}).counts
    assert set(whole.values()) == {1}
    with pytest.raises(BudgetError, match="out of reach"):
        prune(graph, Request(Budget(1), Magnitude(), Contiguous(), ("layers",)), [IDS])
