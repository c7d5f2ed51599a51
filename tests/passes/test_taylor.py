"""Every order of Taylor importance against explicit loops, and how gradients are streamed."""

import weakref

import numpy
import pytest
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Group, Slot
from graphprune.errors import DataError, UsageError
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.passes.importance.taylor import Taylor, gradient_lines
from graphprune.pruning.interfaces import view
from graphprune.pruning.signals.gradients import backward, with_leaves
from graphprune.pruning.signals.line_taps import attach_taps
from graphprune.pruning.signals.unit_sums import lay_out, parameter_slots, unit_scores
from graphprune.running.inputs import Batch, decoder_inputs, samples
from graphprune.running.loss import Loss, batch_loss
from tests.support import families
from tests.support.tiny_llama import CONFIG, ids, tiny_graph, tiny_groups

HEADS = "model.layers.0.self_attn.heads"
MODES = [("batch", "first"), ("sample", "first"), ("sample", "second"), ("sample", "mixed")]
ORDERS = [Taylor(aggregate, *mode) for aggregate in ("vector", "element") for mode in MODES]  # type: ignore[arg-type]


def sample_gradients(graph: Graph, batches: list[Batch], loss: Loss | None = None) -> dict[str, Tensor]:
    """The gradient of every sample by plain `backward` on copies: name -> [samples, *shape]."""
    found: dict[str, list[Tensor]] = {}
    for sample in (sample for batch in batches for sample in samples(batch)):
        own = {n: torch.nn.Parameter(p.detach().clone()) for n, p in graph.parameters().items()}
        batch_loss(graph.with_tensors(own), sample, loss).backward()  # type: ignore[no-untyped-call]
        for name, p in own.items():
            found.setdefault(name, []).append(torch.zeros_like(p) if p.grad is None else p.grad)
    return {name: torch.stack(parts).double() for name, parts in found.items()}


def entry_scores(order: str, weight: Tensor, g: Tensor, by_sample: bool) -> list[Tensor]:
    """What each entry counts for before magnitudes are taken: one tensor, or one for each sample."""
    mean, fisher = g.mean(0), g.square().mean(0)
    if order == "second":
        return [weight * fisher * weight]
    if order == "mixed":
        return [weight * mean - weight * fisher * weight / 2]
    return [weight * one for one in g] if by_sample else [weight * mean]


def brute_force(taylor: Taylor, graph: Graph, group: Group, gradients: dict[str, Tensor]) -> Tensor:
    """One loop over parameters, slots, units and indices."""
    totals = torch.zeros(group.units, dtype=torch.float64)
    for name, slots in parameter_slots(graph, group).items():
        weight = graph.parameters()[name].detach().double()
        parts = entry_scores(taylor.order, weight, gradients[name], taylor.gradients == "sample")
        slot, *others = slots
        assert all(other.dim == slot.dim for other in others)  # tied names, no entry owned twice
        for unit in range(group.units):
            for index in slot.indices(unit):
                lines = [part.select(slot.dim, int(index)) for part in parts]
                magnitudes = [x.abs().sum() if taylor.aggregate == "element" else x.sum().abs() for x in lines]
                totals[unit] += sum(magnitudes) / len(parts)
    return totals


def agree(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    assert found.keys() == expected.keys()
    for id, score in found.items():
        torch.testing.assert_close(score.double(), expected[id].double(), rtol=tolerance, atol=1e-9)


@pytest.mark.parametrize("taylor", ORDERS, ids=str)
def test_every_order_equals_explicit_loops(taylor: Taylor) -> None:
    """On the residual width too, through norms and an embedding that is tied to the head."""
    graph, tokens = tiny_graph(), ids(5, 12)
    groups = [*tiny_groups().groups, *analyze(graph).prunable(frozenset({"residual"}))]
    gradients = sample_gradients(graph, [tokens])
    expected = {one.id: brute_force(taylor, graph, one, gradients) for one in groups}
    agree(taylor.score(view(graph, groups, (tokens[:2], tokens[2:4], tokens[4:]))), expected)


@pytest.mark.parametrize("taylor", ORDERS, ids=str)
def test_any_module_with_a_loss_is_scored(taylor: Taylor) -> None:
    """Convolutions, grouped ones too, and batch norms; the loss sees one sample at a time where samples count."""
    graph = families.graph("cnn")
    batch = {"image": torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)), "label": torch.arange(3)}
    groups = [group for group in analyze(graph).groups if not masked(graph, group)]
    gradients = sample_gradients(graph, [batch], image_loss)
    expected = {one.id: brute_force(taylor, graph, one, gradients) for one in groups}
    agree(taylor.score(view(graph, groups, (batch,), image_loss)), expected)


def image_loss(outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
    assert not isinstance(batch, Tensor)
    return torch.nn.functional.cross_entropy(outputs[0], batch["label"])


def masked(graph: Graph, group: Group) -> bool:
    return bool(lay_out(graph, [group]).slots)


@pytest.mark.parametrize("taylor", ORDERS, ids=str)
def test_permuted_units_have_permuted_scores(taylor: Taylor) -> None:
    graph, groups, tokens = tiny_graph(), tiny_groups().groups, ids(3, 10)
    before = taylor.score(view(graph, groups, (tokens,)))
    for group in groups[:2]:
        order = torch.randperm(group.units, generator=torch.Generator().manual_seed(1))
        places = {slot.name: numpy.concatenate([slot.indices(int(u)) for u in order]) for slot in group.slots}
        tensors = {slot.name: permuted(graph, slot, places[slot.name]) for slot in group.slots}
        after = taylor.score(view(graph.with_tensors(tensors), groups, (tokens,)))
        torch.testing.assert_close(after[group.id], before[group.id][order], rtol=1e-3, atol=1e-8)
        assert not torch.allclose(after[group.id], before[group.id], rtol=1e-3)


def permuted(graph: Graph, slot: Slot, places: NDArray[numpy.int64]) -> Tensor:
    tensor = graph.tensors()[slot.name].detach()
    return torch.nn.Parameter(tensor.index_select(slot.dim, torch.from_numpy(places)))


@pytest.mark.parametrize("order", ["first", "second", "mixed"])
def test_a_key_value_head_is_worth_its_own_query_heads(order: str) -> None:
    """Rows of q are (key-value head, query head of it, size): the sum runs over the last two."""
    graph, tokens = tiny_graph(), ids(4, 12)
    name = "model.layers.0.self_attn.q_proj.weight"
    weight, g = graph.parameters()[name].detach().double(), sample_gradients(graph, [tokens])[name]
    lines = [part.sum(1).abs() for part in entry_scores(order, weight, g, True)]
    expected = (sum(lines) / len(lines)).view(4, 2, 4).sum((1, 2))  # type: ignore[union-attr]
    heads = tiny_groups()[HEADS]
    only_q = Group(HEADS, 4, heads.slots[:1], (), "attention", "", None, False, None)
    agree(Taylor(order=order).score(view(graph, [only_q], (tokens,))), {HEADS: expected})  # type: ignore[arg-type]


def test_one_gradient_is_held_at_a_time() -> None:
    """The tied embedding is the largest parameter; all gradients together are several times as large."""
    graph = tiny_graph()
    model, leaves = with_leaves(graph, graph.parameters())
    alive: list[weakref.ref[Tensor]] = []
    held: list[int] = []

    def receive(name: str, gradient: Tensor) -> None:
        alive.append(weakref.ref(gradient))
        own = [leaf.grad for leaf in leaves.values() if leaf.grad is not None]
        held.append(sum(t.nbytes for t in [*own, *(ref() for ref in alive)] if t is not None))
        assert gradient.shape == leaves[name].shape

    backward(model, leaves, ids(3, 12), None, receive)
    sizes = [leaf.nbytes for leaf in leaves.values()]
    assert len(held) == len(leaves)
    assert max(held) == max(sizes) < sum(sizes) / 2
    assert all(ref() is None for ref in alive)


@pytest.mark.parametrize("name", families.families(["llama", "qwen2", "gpt2"]))
def test_taps_give_what_one_sample_at_a_time_gives(name: str) -> None:
    """Untied heads, biases, transposed matrices behind a reshape; and padding tokens, which learn nothing."""
    graph = families.wide(name).graph
    kinds = {"mlp", "attention", "query", "head_dim"} | ({"residual"} if name != "gpt2" else set())
    groups = [group for group in analyze(graph).groups if group.kind in kinds]
    layout = lay_out(graph, groups)
    assert attach_taps(graph, layout) is not None
    tokens = ids(5, 9) % 61
    tokens[:2, 3] = 0
    for mode in ("batch", "sample"):
        taylor = Taylor("vector", mode)
        slow = unit_scores(layout, gradient_lines(taylor, graph, layout, (tokens,), None))
        agree(taylor.score(view(graph, groups, (tokens[:3], tokens[3:]))), slow, 1e-5)


def test_taps_are_not_put_where_rows_cannot_be_told_apart() -> None:
    """The vocabulary has no tap: its rows are read by index."""
    graph = tiny_graph()
    vocabulary = [group for group in analyze(graph).groups if group.kind == "vocabulary"]
    assert vocabulary
    assert attach_taps(graph, lay_out(graph, vocabulary)) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_ranks_units_alike(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(CONFIG).eval()
    narrow = capture(model.to(dtype))
    own = {name: torch.nn.Parameter(p.detach().float()) for name, p in narrow.parameters().items()}
    wide, groups, tokens = tiny_graph().with_tensors(own), tiny_groups().groups, (ids(8, 16), ids(8, 16, seed=1))
    for taylor in ORDERS:
        found, expected = taylor.score(view(narrow, groups, tokens)), taylor.score(view(wide, groups, tokens))
        for id, score in found.items():
            assert score.dtype == torch.float32
            assert rank_correlation(score, expected[id]) > 0.9, (str(taylor), id)
            assert 0.9 < float(score.sum() / expected[id].sum()) < 1.1


def rank_correlation(one: Tensor, other: Tensor) -> float:
    ranks = torch.stack([one.argsort().argsort(), other.argsort().argsort()]).double()
    return float(torch.corrcoef(ranks)[0, 1])


def test_groups_on_one_dimension_share_its_sums() -> None:
    graph = tiny_graph()
    groups = analyze(graph).groups
    layout = lay_out(graph, groups)
    plain = {(key.parameter, key.dim) for key in layout.shares if not key.part}
    assert len(layout.shares) == len(plain) + len(layout.slots)
    assert sum(map(len, layout.shares.values())) > len(layout.shares), "attention, query and head size are rows of q"


def test_combinations_without_a_meaning_are_refused() -> None:
    for order in ("second", "mixed"):
        with pytest.raises(UsageError, match=f"order={order}.*leave gradients=batch out"):
            Taylor(gradients="batch", order=order)
    with pytest.raises(UsageError, match="order=first, second or mixed, not third"):
        Taylor(order="third")  # type: ignore[arg-type]


def test_gradients_that_are_not_finite_are_an_error() -> None:
    graph, tokens = tiny_graph(), ids(2, 8)
    batch = dict(zip(graph.inputs, decoder_inputs(graph, tokens), strict=True))

    def steep(outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        return (outputs[0] - outputs[0].detach()).sum().sqrt()  # zero, with an infinite slope

    with pytest.raises(DataError, match="calibration data are not finite"):
        Taylor().score(view(graph, tiny_groups().groups, (batch,), steep))
