"""Fused importance against plain autograd in float64 and a formula of a few lines, and the parts of the text."""

import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Group
from graphprune.errors import DataError, UsageError
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.passes.importance.fused import Fused, fuse
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.passes.importance.taylor import Taylor
from graphprune.pruning.interfaces import view
from graphprune.pruning.signals import part_scores as measured
from graphprune.pruning.signals.part_scores import part_scores
from graphprune.running.inputs import split_parts
from graphprune.running.loss import next_token_loss
from graphprune.spec import parse_spec
from tests.support.families import families, graph
from tests.support.oracle import double
from tests.support.tiny_language import save_model
from tests.support.tiny_llama import ids, tiny_graph, tiny_groups

ORDERS = ("first", "mixed")


@functools.cache
def wide() -> Graph:
    return double(tiny_graph())


def sample_gradients(graph: Graph, tokens: Tensor) -> list[dict[str, Tensor]]:
    """w g of every row by itself, by plain backward on copies."""
    found = []
    for row in tokens:
        own = {name: torch.nn.Parameter(p.detach().clone()) for name, p in graph.parameters().items()}
        next_token_loss(graph.with_tensors(own), row[None]).backward()  # type: ignore[no-untyped-call]
        found.append({n: p.detach() * (torch.zeros_like(p) if p.grad is None else p.grad) for n, p in own.items()})
    return found


def by_hand(group: Group, products: list[dict[str, Tensor]], order: str) -> tuple[list[float], list[float]]:
    """I_v and I_e of each unit: one vector after the other, the mean over samples before the magnitude."""
    half = 0.5 if order == "mixed" else 0.0
    vector, element = [0.0] * group.units, [0.0] * group.units
    for unit in range(group.units):
        for slot in group.slots:
            for index in slot.indices(unit):
                p = torch.stack([each[slot.name].select(slot.dim, int(index)).flatten() for each in products])
                s = p.sum(1)
                vector[unit] += abs(float((s - half * s**2).mean()))
                element[unit] += float((p - half * p**2).mean(0).abs().sum())
    return vector, element


@pytest.mark.parametrize("order", ORDERS)
def test_scores_of_parts_are_those_of_plain_autograd(order: str) -> None:
    """Grouped queries, and the residual width with its norms and a tied embedding."""
    tokens = ids(6, 12)
    groups = [*tiny_groups().groups, *analyze(tiny_graph()).prunable(frozenset({"residual"}))]
    batches = (tokens[:2], tokens[2:4], tokens[4:])
    found = part_scores(view(wide(), groups, batches), 3, order)  # type: ignore[arg-type]
    products = sample_gradients(wide(), tokens)
    for group in groups:
        for part in range(3):
            vector, element = by_hand(group, products[2 * part : 2 * part + 2], order)
            torch.testing.assert_close(found.vector[group.id][part], torch.tensor(vector).double(), rtol=1e-5, atol=0)
            torch.testing.assert_close(found.element[group.id][part], torch.tensor(element).double(), rtol=1e-5, atol=0)
            assert float(found.element[group.id][part].sum()) == pytest.approx(sum(element), rel=1e-9)
            assert float(found.vector[group.id][part].sum()) == pytest.approx(sum(vector), rel=1e-9)


def test_first_order_of_one_part_is_taylor() -> None:
    """Element^1 and the vectors of LLM-Pruner, of the gradient of all of the text."""
    scene = view(tiny_graph(), tiny_groups().groups, tuple(ids(6, 12).split(2)))  # type: ignore[no-untyped-call]
    found = part_scores(scene, 1, "first")
    for aggregate, mine in (("vector", found.vector), ("element", found.element)):
        known = Taylor(aggregate, "batch").score(scene)  # type: ignore[arg-type]
        for id, scores in known.items():
            torch.testing.assert_close(mine[id][0].float(), scores, rtol=1e-4, atol=1e-9)


def random_scores(parts: int = 5) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    seeded = torch.Generator().manual_seed(0)
    made = [torch.rand(parts, units, dtype=torch.float64, generator=seeded) for units in (4, 7, 4, 7)]
    return {"a": made[0], "b": 30 * made[1]}, {"a": made[2] ** 2, "b": made[3] ** 2}


def test_fusion_is_the_formula() -> None:
    """I_v / (2 s_v²) + I_e / (2 s_e²), s² the mean over units of the variance between parts, over the group's mean."""
    vector, element = random_scores()
    total: dict[str, Tensor] = {id: torch.zeros(5, len(scores.T)).double() for id, scores in vector.items()}
    for kind in (vector, element):
        even = {id: scores / (sum(scores.flatten().tolist()) / scores.numel()) for id, scores in kind.items()}
        columns = [column.tolist() for scores in even.values() for column in scores.T]
        spread = [sum((x - sum(c) / 5) ** 2 for x in c) / 4 for c in columns]
        for id in total:
            total[id] += even[id] / (2 * sum(spread) / len(spread))
    for id, scores in fuse(vector, element).items():
        torch.testing.assert_close(scores, total[id] * element[id].mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("louder", [0, 1])
def test_a_kind_that_is_a_thousand_times_as_large_ranks_alike(louder: int) -> None:
    """Of all units of all groups: sigmas are estimated anew, and the level of groups is a factor for all."""
    kinds = list(random_scores())
    before = fuse(*kinds)
    kinds[louder] = {id: 1000 * scores for id, scores in kinds[louder].items()}
    after = fuse(*kinds)
    ranks = [torch.cat([each.mean(0) for each in found.values()]).argsort() for found in (before, after)]
    assert torch.equal(*ranks)


def test_what_differs_less_between_parts_counts_more() -> None:
    steady, restless = torch.tensor([[3.0, 1.0], [3.1, 1.0]]).double(), torch.tensor([[1.0, 3.0], [3.0, 1.0]]).double()
    found = fuse({"a": steady}, {"a": restless})["a"].mean(0)
    assert found[0] > found[1]
    assert float(found[0] / found[1]) == pytest.approx(3, rel=0.1)


def test_without_a_difference_between_parts_both_kinds_count_alike() -> None:
    one = {"a": torch.tensor([[1.0, 3.0]] * 3).double()}, {"a": torch.tensor([[6.0, 2.0]] * 3).double()}
    torch.testing.assert_close(fuse(*one)["a"][0], 4 * torch.tensor([1.0, 1.0]).double())
    dead = {"a": torch.zeros(3, 2).double()}
    assert torch.equal(fuse(dead, dead)["a"], dead["a"])


@pytest.mark.parametrize("name", families(("llama", "gpt2", "mixtral")))
def test_any_family_is_scored(name: str) -> None:
    scene = view(graph(name), None, tuple(ids(4, 10, 3).clamp(3, 59).split(1)))  # type: ignore[no-untyped-call]
    found = Fused(parts=2).score(scene)
    assert found.keys() == {group.id for group in scene.candidates}
    for group in scene.candidates:
        assert found[group.id].shape == (group.units,)
        assert found[group.id].dtype == torch.float32
        assert bool((found[group.id] >= 0).all())


def test_weights_that_stay_in_their_file_score_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There backward goes layer by layer, through all parts of each."""
    tokens = torch.randint(3, 40, (6, 10), generator=torch.Generator().manual_seed(0))
    folder = save_model(tmp_path / "model")
    scores = []
    for stored in (False, True):
        source = capture(folder, dtype=torch.float32, stored=stored)
        scene = view(source, None, (tokens,))
        if stored:
            monkeypatch.setattr(measured, "small_batches", lambda batches: list(batches[0].split(1)))
        scores.append(part_scores(scene, 3, "mixed"))
    for kind in ("vector", "element"):
        one, other = (getattr(each, kind) for each in scores)
        for id in one:
            torch.testing.assert_close(one[id], other[id], rtol=1e-4, atol=1e-9)


def test_parts_are_of_nearly_the_same_size() -> None:
    batches = tuple(torch.arange(20).view(10, 2).split(2))  # type: ignore[no-untyped-call]
    for count, sizes in ((5, [1] * 5), (2, [2, 3]), (8, [1, 1, 1, 1, 1, 2, 1, 2]), (10, [1] * 10), (30, [1] * 10)):
        parts = split_parts(batches, count)
        assert sorted(len(part) for part in parts) == sorted(sizes), count
        assert torch.equal(torch.cat([batch for part in parts for batch in part]), torch.arange(20).view(10, 2))
    assert split_parts((), 3) == ()


def test_other_importances_score_parts_as_if_each_were_all() -> None:
    scene = view(tiny_graph(), tiny_groups().groups, (ids(4, 12),))
    parts = Taylor().score_parts(scene, 2)
    for part in range(2):
        alone = Taylor().score(view(tiny_graph(), tiny_groups().groups, (ids(4, 12)[2 * part : 2 * part + 2],)))
        for id, scores in alone.items():
            torch.testing.assert_close(parts[id][part], scores, rtol=1e-5, atol=1e-9)
    assert Magnitude().score_parts(view(tiny_graph(), tiny_groups().groups), 3) == {}


def test_bad_input_is_told() -> None:
    with pytest.raises(UsageError, match="parts of fused is 2 or more, not 1"):
        parse_spec("importance", "fused{parts=1}")
    with pytest.raises(UsageError, match="order"):
        parse_spec("importance", "fused{order=second}")
    with pytest.raises(UsageError, match="give --data"):
        Fused().score(view(tiny_graph(), tiny_groups().groups))
    broken = {name: torch.nn.Parameter(p * float("nan")) for name, p in tiny_graph().parameters().items()}
    with pytest.raises(DataError):
        Fused().score(view(tiny_graph().with_tensors(broken), tiny_groups().groups, (ids(4, 12),)))
