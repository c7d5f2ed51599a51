"""A probe judges masks as the cuts they stand for, several at once, and never one twice."""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.gates.gated import Gated, gate
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.pruning.search.journal import Journal
from graphprune.pruning.search.mask_probe import MaskProbe, key_of
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import Batch
from graphprune.running.loss import batch_loss
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")
BATCHES = [torch.randint(3, 60, (2, 8), generator=torch.Generator().manual_seed(n)) for n in range(2)]


@pytest.fixture(scope="module")
def gated() -> Gated:
    groups = [g for g in analyze(tiny_graph()).prunable() if g.kind in ("attention", "mlp", "residual")]
    return gate(tiny_graph(), groups, "survivors")


def masks(gated: Gated, count: int, seed: int = 0) -> list[dict[str, Tensor]]:
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        mask = {group.id: torch.zeros(group.units) for group in gated.candidates}
        for group in gated.candidates:
            mask[group.id][rng.sample(range(group.units), rng.randint(1, group.units))] = 1
        found.append(mask)
    return found


def loss_of(graph: Graph) -> float:
    with torch.no_grad():
        return float(sum(batch_loss(graph, batch) for batch in BATCHES)) / len(BATCHES)


def test_a_mask_costs_what_its_cut_costs(gated: Gated) -> None:
    some = masks(gated, 5)
    for mask, found in zip(some, MaskProbe(gated, BATCHES)(some), strict=True):
        keep = {id: tuple(torch.nonzero(units).flatten().tolist()) for id, units in mask.items()}
        keep = {id: units for id, units in keep.items() if len(units) < len(mask[id])}
        cut = apply(tiny_graph(), Plan(keep, (), "survivors"))
        assert float(found) == pytest.approx(loss_of(cut), rel=1e-5)


def test_several_at_once_are_each_alone(gated: Gated) -> None:
    some = masks(gated, 7)
    one, many = (MaskProbe(gated, BATCHES, at_once=size)(some) for size in (1, 3))
    torch.testing.assert_close(one, many, rtol=1e-6, atol=1e-6)
    assert MaskProbe(gated, BATCHES).size() > 7


def test_no_mask_is_judged_twice_nor_after_a_stop(gated: Gated, tmp_path: Path) -> None:
    calls = []

    def loss(outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        calls.append(batch)
        return outputs[0].float().std()

    some, told = masks(gated, 4), list[tuple[int, int]]()
    probe = MaskProbe(gated, BATCHES, loss, Journal(tmp_path / "probe.jsonl"), at_once=2)
    first = probe([*some, some[0]], lambda *entry: told.append(entry))
    assert told == [(2, 4), (4, 4)]
    assert len(calls) == 4 * len(BATCHES)
    assert first[0] == first[4]
    path = tmp_path / "probe.jsonl"
    path.write_text(path.read_text() + '{"mask": "cut sho')
    again = MaskProbe(gated, BATCHES, loss, Journal(path), at_once=2)(some)
    assert len(calls) == 4 * len(BATCHES)
    assert torch.equal(again, first[:4]), "bit for bit"


def test_masks_of_other_candidates_take_turns(gated: Gated) -> None:
    whole, other = masks(gated, 2)
    id = next(iter(other))
    found = MaskProbe(gated, BATCHES)([whole, {id: other[id]}, {}])
    alone = [float(MaskProbe(gated, BATCHES)([mask])) for mask in (whole, {id: other[id]})]
    assert found[:2].tolist() == pytest.approx(alone, rel=1e-6)
    assert float(found[2]) == pytest.approx(loss_of(tiny_graph()), rel=1e-6)


def test_a_mask_is_known_by_its_factors() -> None:
    one = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0])}
    assert key_of(one) == key_of(dict(reversed(one.items())))
    assert key_of(one) == key_of({id: value.double() for id, value in one.items()})
    assert key_of(one) != key_of({**one, "a": torch.tensor([1.0, 0.5])})
