"""Scores against brute force: one loop over units and entries, and one backward pass per sample."""

import dataclasses

import numpy
import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Group, Slot
from graphprune.errors import DataError, UsageError
from graphprune.ir.graph import Graph, get_tensor
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.passes.importance.random_ import Random
from graphprune.passes.importance.taylor import Taylor
from graphprune.pruning.interfaces import Importance, view
from graphprune.pruning.signals.unit_sums import unit_sums
from graphprune.running.inputs import Batch, decoder_inputs
from graphprune.running.loss import next_token_loss
from tests.support.tiny_llama import CONFIG, group, ids, tiny_graph, tiny_groups

HEADS = "model.layers.0.self_attn.heads"


def gradients(graph: Graph, tokens: Tensor) -> dict[str, Tensor]:
    """Gradients by plain `backward` on deep copies of the parameters."""
    own = {name: torch.nn.Parameter(p.detach().clone()) for name, p in graph.parameters().items()}
    next_token_loss(graph.with_tensors(own), tokens).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in own.items() if p.grad is not None}


def brute_force(group: Group, entries: dict[str, Tensor]) -> list[float]:
    """For every unit, the sum over the indices that it owns, one index at a time."""
    totals = []
    for unit in range(group.units):
        total = 0.0
        for slot in group.slots:
            for index in slot.indices(unit):
                total += entries[slot.name].select(slot.dim, int(index)).abs().sum().item()
        totals.append(total)
    return totals


def brute_force_vector(group: Group, entries: dict[str, Tensor]) -> list[float]:
    return [
        sum(abs(entries[s.name].select(s.dim, int(i)).sum().item()) for s in group.slots for i in s.indices(unit))
        for unit in range(group.units)
    ]


def close(score: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(score, torch.tensor(expected), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("aggregate", ["element", "vector"])
@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_taylor_equals_brute_force(aggregate: str, mode: str) -> None:
    graph, groups, tokens = tiny_graph(), tiny_groups().groups, ids(5, 12)
    weights = {name: p.detach() for name, p in graph.parameters().items()}
    parts = [tokens] if mode == "batch" else list(tokens.split(1))  # type: ignore[no-untyped-call]
    sums = brute_force if aggregate == "element" else brute_force_vector
    found = [{n: weights[n] * g for n, g in gradients(graph, part).items()} for part in parts]
    scores = Taylor(aggregate, mode).score(view(graph, groups, (tokens[:2], tokens[2:])))  # type: ignore[arg-type]
    for one in groups:
        expected = numpy.mean([sums(one, entries) for entries in found], axis=0)
        close(scores[one.id], [float(x) for x in expected])
        assert scores[one.id].dtype == torch.float32


def test_query_heads_count_for_their_own_key_value_head() -> None:
    """Rows of q for heads 2k and 2k+1 belong to key-value head k; the other order is a known mistake."""
    graph, tokens = tiny_graph(), ids(4, 12)
    name = "model.layers.0.self_attn.q_proj.weight"
    product = (gradients(graph, tokens)[name] * graph.parameters()[name].detach()).abs()
    expected = product.view(4, 2, 4, -1).sum((1, 2, 3))  # key-value head, query head, size, residual
    only_q = dataclasses.replace(tiny_groups()[HEADS], slots=tiny_groups()[HEADS].slots[:1])
    taylor = Taylor(aggregate="element", gradients="batch")
    close(taylor.score(view(graph, [only_q], (tokens,)))[HEADS], expected.tolist())


def test_taylor_leaves_the_graph_as_it_was() -> None:
    graph = tiny_graph()
    before = {name: p.detach().clone() for name, p in graph.parameters().items()}
    frozen = next(iter(graph.parameters().values()))
    frozen.requires_grad_(False)
    try:
        with torch.no_grad():
            Taylor().score(view(graph, tiny_groups().groups, (ids(2, 8),)))
        states = [p.requires_grad for p in graph.parameters().values()]
        assert states == [False] + [True] * (len(states) - 1)
    finally:
        frozen.requires_grad_(True)
    assert all(p.grad is None for p in graph.parameters().values())
    assert all(torch.equal(p, before[name]) for name, p in graph.parameters().items())


def test_vector_cancels_where_element_does_not() -> None:
    entries = torch.tensor([[1.0, -1.0], [2.0, 3.0], [-4.0, 1.0]])
    slot = Slot("w", 0, numpy.array([0, 0, 1]))
    assert unit_sums(entries, [slot], 2, "element").tolist() == [7.0, 5.0]
    assert unit_sums(entries, [slot], 2, "vector").tolist() == [5.0, 3.0]


def test_an_entry_owned_twice_by_one_unit_counts_once() -> None:
    entries = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    slots = [Slot("w", dim, numpy.array([0, 1])) for dim in (0, 1)]
    assert unit_sums(entries, slots, 2).tolist() == [1 + 2 + 4, 4 + 8 + 2]
    assert unit_sums(entries, [slots[0], slots[0]], 2).tolist() == [3.0, 12.0]  # a tied tensor under two names


def test_indices_without_an_owner_count_for_nobody() -> None:
    slots = [Slot("w", dim, numpy.array([-1, 0])) for dim in (0, 1)]
    assert unit_sums(torch.ones(2, 2), slots, 1).tolist() == [3.0]


def test_magnitude_equals_brute_force_and_ignores_buffers() -> None:
    graph, groups = tiny_graph(), tiny_groups().groups
    weights = {name: p.detach() for name, p in graph.parameters().items()}
    buffer = next(name for name, t in graph.tensors().items() if not isinstance(t, torch.nn.Parameter) and t.ndim == 1)
    rows = len(get_tensor(graph.module, buffer))
    for p in (1, 2):
        scores = Magnitude(p).score(view(graph, groups))
        for one in groups:
            close(scores[one.id], brute_force(one, {n: w**p for n, w in weights.items()}))
    both = group("g", "other", rows, {(buffer, 0): 1, ("model.norm.weight", 0): CONFIG.hidden_size // rows})
    alone = group("g", "other", rows, {("model.norm.weight", 0): CONFIG.hidden_size // rows})
    torch.testing.assert_close(Magnitude().score(view(graph, [both])), Magnitude().score(view(graph, [alone])))


def test_mean_magnitude_does_not_depend_on_how_much_a_unit_owns() -> None:
    graph = tiny_graph().with_tensors(
        {n: torch.nn.Parameter(torch.full_like(p, -3.0)) for n, p in tiny_graph().parameters().items()}
    )
    for score in Magnitude(1, "mean").score(view(graph, tiny_groups().groups)).values():
        torch.testing.assert_close(score, torch.full_like(score, 3.0))


def test_random_depends_on_seed_and_group_alone() -> None:
    graph, groups = tiny_graph(), tiny_groups().groups
    first, again = Random(1).score(view(graph, groups)), Random(1).score(view(graph, groups[::-1]))
    assert all(torch.equal(first[id], again[id]) for id in first)
    assert not torch.equal(first[HEADS], Random(2).score(view(graph, groups))[HEADS])
    assert not torch.equal(first[groups[1].id], first[groups[3].id])


def test_a_given_loss_takes_batches_of_named_tensors() -> None:
    graph, groups, tokens = tiny_graph(), tiny_groups().groups, ids(3, 9)
    batch = dict(zip(graph.inputs, decoder_inputs(graph, tokens), strict=True))

    def loss(outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        assert not isinstance(batch, Tensor)
        return torch.nn.functional.cross_entropy(outputs[0][:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())

    expected = Taylor().score(view(graph, groups, (tokens,)))
    for id, score in Taylor().score(view(graph, groups, (batch,), loss)).items():
        torch.testing.assert_close(score, expected[id])
    with pytest.raises(UsageError, match="need a loss"):
        Taylor().score(view(graph, groups, (batch,)))


def test_what_cannot_be_scored_is_refused() -> None:
    graph, groups = tiny_graph(), tiny_groups().groups
    with pytest.raises(UsageError, match="--data"):
        Taylor().score(view(graph, groups))
    with pytest.raises(UsageError, match="aggregate"):
        Taylor("sum")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="p=1 or 2, not 3"):
        Magnitude(3)
    name, weight = next(iter(graph.parameters().items()))
    broken = graph.with_tensors({name: torch.nn.Parameter(weight.detach() * float("nan"))})
    with pytest.raises(DataError, match="nan"):
        Taylor().score(view(broken, groups, (ids(2, 8),)))


def test_inferred_groups_own_what_the_groups_by_hand_own() -> None:
    """The scores above are of groups by hand; the analysis finds the same slots and counts the same parameters."""
    found, by_hand = analyze(tiny_graph()), tiny_groups()
    for kind in ("attention", "mlp"):
        pairs = zip(found.prunable(frozenset({kind})), by_hand.prunable(frozenset({kind})), strict=True)
        assert all(slots(one) == slots(other) for one, other in pairs)
    assert by_hand.costs.parameters(by_hand.sizes()) == found.costs.parameters(found.sizes())


def slots(group: Group) -> dict[tuple[str, int], list[int]]:
    return {(slot.name, slot.dim): slot.owner.tolist() for slot in group.slots}


@pytest.mark.parametrize("importance", [Magnitude(), Magnitude(1, "mean"), Taylor(), Taylor("vector", "sample")])
def test_every_inferred_kind_is_scored(importance: Importance) -> None:
    """Residual width, vocabulary and rotary pairs too: a tied embedding is owned through both of its dimensions."""
    groups = analyze(tiny_graph())
    scores = importance.score(view(tiny_graph(), groups.groups, (ids(2, 8),)))
    assert {id: len(score) for id, score in scores.items()} == {g.id: g.units for g in groups.groups}
    assert all(bool((score > 0).any()) and bool(torch.isfinite(score).all()) for score in scores.values())
