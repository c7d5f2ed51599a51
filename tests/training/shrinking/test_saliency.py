"""Saliency: the mean of |w g| over all that goes with a unit, by hand, and a running mean of it."""

from typing import Any

import torch

from graphprune.analysis.analyse import analyze
from graphprune.ir.graph import Graph
from graphprune.pruning.signals.unit_sums import lay_out
from graphprune.running.loss import batch_loss
from graphprune.training.adapters import whole
from graphprune.training.shrinking.saliency import follow, measure_saliency
from tests.support.families import graph as family
from tests.support.tiny_llama import ids, tiny_graph


def reference(graph: Graph, group: Any, gradients: dict[str, torch.Tensor], unit: int) -> float:
    """The mean of |w g| over every entry of every parameter that the unit owns by some dimension, one at a time."""
    tensors, owned = graph.tensors(), dict[int, tuple[str, torch.Tensor]]()
    for slot in group.slots:
        if slot.name not in graph.parameters():
            continue
        first = next(name for name in tensors if tensors[name] is tensors[slot.name])
        mask = owned.setdefault(id(tensors[first]), (first, torch.zeros(tensors[first].shape, dtype=torch.bool)))[1]
        mask.index_fill_(slot.dim, torch.from_numpy(slot.indices(unit)), True)
    total, count = 0.0, 0
    for name, mask in owned.values():
        for weight, gradient in zip(tensors[name][mask].tolist(), gradients[name][mask].tolist(), strict=True):
            total, count = total + abs(weight * gradient), count + 1
    return total / count


def check(source: Graph) -> None:
    trainee = whole(source)
    parameters = trainee.graph.parameters()
    batch_loss(trainee.graph, ids(2, 8), None).backward()  # type: ignore[no-untyped-call]
    gradients = {n: p.grad for n, p in parameters.items() if p.grad is not None}
    groups = analyze(trainee.graph)
    candidates = groups.prunable(frozenset({"mlp", "attention", "residual"}))
    found = measure_saliency(lay_out(trainee.graph, candidates), parameters)
    for group in candidates:
        entries = groups.costs.parameters.slope(groups.sizes(), group.id)
        for unit in (0, group.units // 2, group.units - 1):
            mean = float(found[group.id][unit]) / entries
            torch.testing.assert_close(mean, reference(trainee.graph, group, gradients, unit), rtol=1e-5, atol=1e-12)


def test_it_is_the_mean_of_weight_times_gradient_over_all_that_goes_with_a_unit() -> None:
    check(tiny_graph())


def test_so_it_is_with_biases_and_fused_projections() -> None:
    check(family("gpt2"))


def test_a_parameter_without_a_gradient_counts_for_nothing() -> None:
    trainee = whole(tiny_graph())
    candidates = analyze(trainee.graph).prunable(frozenset({"mlp"}))
    found = measure_saliency(lay_out(trainee.graph, candidates), trainee.graph.parameters())
    assert all(torch.equal(value, torch.zeros_like(value)) for value in found.values())


def test_the_running_mean_begins_with_the_first_values() -> None:
    one, two = {"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 0.0])}
    first = follow({}, one, 0.75)
    assert torch.equal(first["a"], one["a"])
    torch.testing.assert_close(follow(first, two, 0.75)["a"], torch.tensor([1.5, 1.5]))
