"""Surgeon importance: costs against least squares by brute force, curvature against plain autograd."""

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.passes.importance.obs import Obs
from graphprune.pruning.interfaces import view
from graphprune.pruning.signals.curvature import measure_curvature
from graphprune.pruning.signals.elimination import Consumer, eliminate
from graphprune.running.inputs import graph_inputs
from graphprune.running.stepper import Stepper
from tests.support.families import analysis, families, graph

BATCHES = tuple(torch.randint(3, 60, (4, 12), generator=torch.Generator().manual_seed(seed)) for seed in range(3))


def random_case(seed: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """A second moment of correlated inputs, a weight, a curvature of the outputs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * inputs, inputs, generator=generator, dtype=torch.float64)
    mixed = x @ torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    g = torch.randn(3 * outputs, outputs, generator=generator, dtype=torch.float64)
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    return mixed.T @ mixed / len(mixed), weight, g.T @ g / len(g)


def best_loss(moment: Tensor, weight: Tensor, outputs: Tensor, left: list[int]) -> float:
    """tr(M E[(W x - V x_left)(..)ᵀ]) / 2 with the V that makes it least."""
    if not left:
        return float((outputs @ weight @ moment @ weight.T).trace()) / 2
    best = weight @ moment[:, left] @ torch.linalg.inv(moment[left][:, left])
    wide = torch.zeros_like(weight)
    wide[:, left] = best
    rest = weight - wide
    return float((outputs @ rest @ moment @ rest.T).trace()) / 2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_costs_add_up_to_the_loss_of_what_is_left(seed: int, block: int) -> None:
    units = 5
    moment, weight, outputs = random_case(seed, units * block, 4)
    owner = numpy.repeat(numpy.arange(units), block)
    consumer = Consumer(owner, moment, weight.T @ outputs @ weight, True)
    costs = eliminate(units, [consumer], 0.0, units)
    order = torch.argsort(costs).tolist()
    # Costs rise, so the first must be exact, and the smallest possible.
    singles = [
        best_loss(moment, weight, outputs, [i for i in range(units * block) if owner[i] != u]) for u in range(units)
    ]
    assert float(costs[order[0]]) == pytest.approx(min(singles), rel=1e-4)
    # Greedy by brute force: the same order, and the same rise at each step.
    left, before, reached = list(range(units)), 0.0, 0.0
    for unit in order:
        rises = {
            u: best_loss(
                moment, weight, outputs, [i for i in range(units * block) if owner[i] in left and owner[i] != u]
            )
            - before
            for u in left
        }
        assert rises[unit] == pytest.approx(min(rises.values()), rel=1e-3, abs=1e-6)
        reached = max(reached, rises[unit])
        assert float(costs[unit]) == pytest.approx(reached, rel=1e-3, abs=1e-6)
        left.remove(unit)
        before += rises[unit]


def test_what_is_not_solved_costs_what_it_gives() -> None:
    moment, weight, outputs = random_case(1, 4, 3)
    consumer = Consumer(numpy.arange(4), moment, weight.T @ outputs @ weight, False)
    costs = eliminate(4, [consumer], 0.0, 4)
    wanted = [float(moment[j, j] * (weight[:, j] @ outputs @ weight[:, j])) / 2 for j in range(4)]
    assert sorted(costs.tolist()) == pytest.approx(sorted(wanted), rel=1e-4)


def test_inputs_of_no_unit_stay_and_help() -> None:
    moment, weight, outputs = random_case(2, 5, 3)
    owner = numpy.array([0, 1, -1, 2, -1])
    costs = eliminate(3, [Consumer(owner, moment, weight.T @ outputs @ weight, True)], 0.0, 3)
    assert float(costs.max()) < best_loss(moment, weight, outputs, [])
    singles = [best_loss(moment, weight, outputs, [i for i in range(5) if owner[i] != u]) for u in range(3)]
    assert float(costs.min()) == pytest.approx(min(singles), rel=1e-4)


def test_fewer_rounds_are_close() -> None:
    moment, weight, outputs = random_case(3, 40, 6)
    consumer = Consumer(numpy.arange(40), moment, weight.T @ outputs @ weight, True)
    one, many = eliminate(40, [consumer], 0.01, 40), eliminate(40, [consumer], 0.01, 10)
    assert float(torch.corrcoef(torch.stack([one.argsort().argsort(), many.argsort().argsort()]).double())[0, 1]) > 0.7
    assert int(one.argmin()) == int(many.argmin())


def by_hand(source: Graph, call: LinearCall, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What a call reads, and the gradient of the summed loss by it through this call: [tokens, inputs]."""
    run = Stepper(source, [graph_inputs(source, ids)], frozenset({call.x.name, call.node.name}))
    with torch.no_grad():
        run.advance(call.node)
    x, made = run.value(call.x)[0], run.value(call.node)[0].detach().requires_grad_()
    run.values[0][call.node] = made
    logits_node = source.results["logits"]
    run.keep = frozenset({logits_node.name})
    run.advance(logits_node)
    logits = run.value(logits_node)[0]
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    weight = call.matrix(source.tensors()[call.weight]).detach()
    return x.flatten(0, -2).double().detach(), (torch.autograd.grad(loss, made)[0] @ weight).flatten(0, -2).double()


@pytest.mark.parametrize("name", families(("llama", "gpt2")))
def test_curvature_against_autograd(name: str) -> None:
    source = graph(name)
    attention = [c for c in find_linear_calls(source) if "attn" in c.weight]
    calls = [c for c in attention if c.x is attention[0].x]
    found = measure_curvature(source, {"first": calls}, BATCHES)["first"]
    inputs, losses, count = torch.zeros(()), torch.zeros(()), 0
    for ids in BATCHES:
        each = [by_hand(source, call, ids) for call in calls]
        x, h = each[0][0], sum((gradient for _, gradient in each), start=torch.zeros(()))
        inputs, losses, count = inputs + x.T @ x, losses + h.T @ h, count + ids[:, 1:].numel()
    torch.testing.assert_close(found.inputs, inputs / sum(ids.numel() for ids in BATCHES), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.loss, losses / count, rtol=1e-3, atol=1e-9)


@pytest.mark.xdist_group("llama")
def test_enough_tokens_are_looked_at() -> None:
    source = graph("llama")
    group = analysis("llama").groups.prunable(frozenset({"mlp"}))[0]
    scores = [
        Obs(tokens=tokens).score(view(source, [group], batches))[group.id]
        for tokens, batches in ((60, BATCHES), (0, BATCHES[:2]), (0, BATCHES))
    ]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


@pytest.mark.parametrize("name", families(("llama", "gpt2", "gpt_neox", "phi3")))
def test_every_kind_that_linear_calls_read_is_scored(name: str) -> None:
    source = graph(name)
    wanted = analysis(name).groups.prunable(frozenset({"mlp", "attention", "residual"}))
    scores = Obs().score(view(source, wanted, BATCHES))
    for group in wanted:
        assert scores[group.id].shape == (group.units,)
        assert bool(torch.isfinite(scores[group.id]).all())
        assert bool((scores[group.id] > 0).all())
    again = Obs().score(view(source, wanted, BATCHES))
    assert all(torch.equal(scores[id], again[id]) for id in scores)


@pytest.mark.xdist_group("llama")
def test_a_copied_channel_costs_nothing_once() -> None:
    source = graph("llama")
    group = analysis("llama").groups.prunable(frozenset({"mlp"}))[0]
    copied = {}
    for name in (f"{group.scope}.gate_proj.weight", f"{group.scope}.up_proj.weight"):
        weight = source.parameters()[name].detach().clone()
        weight[7] = weight[3]
        copied[name] = torch.nn.Parameter(weight)
    scores = Obs(damping=1e-6, rounds=group.units).score(view(source.with_tensors(copied), [group], BATCHES))[group.id]
    assert {int(scores.argmin())} <= {3, 7}
    first, other = sorted((float(scores[3]), float(scores[7])))
    assert first < 1e-3 * other


@pytest.mark.xdist_group("llama")
def test_refusals() -> None:
    source = graph("llama")
    groups = analysis("llama").groups
    with pytest.raises(UsageError, match="--data"):
        Obs().score(view(source, groups.prunable(frozenset({"mlp"}))))
    with pytest.raises(UsageError, match="no linear call reads it; use taylor"):
        Obs().score(view(source, groups.prunable(frozenset({"vocabulary"})), BATCHES))
    with pytest.raises(UsageError, match="rounds of obs is 1 or more"):
        Obs(rounds=0)
    with pytest.raises(UsageError, match="tokens of obs is 0 or more"):
        Obs(tokens=-1)
