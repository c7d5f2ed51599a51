"""Shapes: what is tried lies near the target, what measures best is taken, and every run tries the same."""

import itertools

import pytest
import torch
from torch import Tensor

from graphprune.budget.budgets import Budget, cost_of
from graphprune.errors import BudgetError, UsageError
from graphprune.passes.allocation.shapes import Shapes
from graphprune.passes.importance.activation import Activation
from graphprune.pruning.blocks import find_blocks
from graphprune.pruning.interfaces import Allotment, Scene, view
from graphprune.pruning.selection import select
from graphprune.rewriting.apply import apply
from graphprune.running.loss import batch_loss
from tests.support.families import analysis, graph
from tests.support.seen_inputs import IDS

KINDS = ("mlp", "attention", "residual")


def scene(share: float, *kinds: str) -> Scene:
    groups = analysis("llama").groups
    chosen = [g for g in groups.prunable() if g.kind in (kinds or KINDS)]
    whole = cost_of(groups, Budget(1))(groups.sizes())
    return view(graph("llama"), (*chosen, *find_blocks(groups, kinds)), IDS.split(2), budget=Budget(int(share * whole)))


def keep(shapes: Shapes, at: Scene) -> tuple[Allotment, dict[str, Tensor]]:
    units = [g for g in at.candidates if g.slots]
    scores = Activation().score(view(at.graph, units, at.batches))
    scores |= {g.id: torch.tensor([float(n)]) for n, g in enumerate(at.candidates) if not g.slots}
    return shapes.keep(at, scores), scores


def widths_of(at: Scene, counts: object) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for group in at.candidates:
        found.setdefault(group.kind, set()).add(counts[group.id])  # type: ignore[index]
    return found


@pytest.mark.parametrize("share", [0.8, 0.5])
def test_the_best_of_equal_shapes_near_the_target(share: float) -> None:
    at = scene(share)
    allotment, scores = keep(Shapes(samples=2), at)
    counts, tried = allotment.counts, allotment.memo["tried"]
    cost, sizes = cost_of(at.groups, at.budget), at.groups.sizes()
    assert 2 <= len(tried) <= 8
    assert len({str(each["widths"]) for each in tried}) == len(tried)
    assert all(0.95 * at.budget.target <= each["cost"] <= at.budget.target for each in tried)
    assert all(len(each) == 1 for each in widths_of(at, counts).values())
    best = min(tried, key=lambda each: each["loss"])
    assert best["cost"] == cost(sizes | dict(counts))
    cut = apply(at.graph, select(at.groups, counts, scores))
    with torch.no_grad():  # the first rows alone: never what others are reported on
        assert best["loss"] == pytest.approx(float(batch_loss(cut, IDS[:2])), abs=1e-5)


def test_the_same_shapes_are_tried_every_time() -> None:
    first, again = (keep(Shapes(), scene(0.6))[0] for _ in range(2))
    assert first == again


def test_the_finest_width_fills_the_budget() -> None:
    at = scene(0.7, "mlp", "attention")
    cost, sizes = cost_of(at.groups, at.budget), at.groups.sizes()
    tried = keep(Shapes(within=0.5, tries=99), at)[0].memo["tried"]
    for heads, each in itertools.product((1, 2), tried):
        (channels,), (kept,) = each["widths"]["mlp"], each["widths"]["attention"]
        if kept == heads and channels < 44:
            more = {g.id: channels + 1 if g.kind == "mlp" else heads for g in at.candidates}
            assert cost(sizes | more) > at.budget.target >= each["cost"]


def test_layers_are_a_width_too() -> None:
    at = scene(0.6, "mlp", "layers")
    counts = keep(Shapes(within=0.5, tries=99), at)[0]
    dropped = [each for each in counts.memo["tried"] if each["widths"]["layers"] == [0, 1]]
    assert dropped
    assert len(dropped) < len(counts.memo["tried"])
    # What went is the layer of lower score, which is the first.
    kept = {id: n for id, n in counts.counts.items() if ".layers." in id and n == 0}
    assert all("layers.0" in id for id in kept)


def test_no_shape_near_the_target_is_one_line_with_the_nearest() -> None:
    at = scene(0.9, "attention")
    with pytest.raises(BudgetError, match=r"the nearest are [\d,]+ parameters and [\d,]+ parameters; aim at") as error:
        keep(Shapes(within=0.0001), at)
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="--data"):
        Shapes().keep(view(graph("llama")), {})
    with pytest.raises(UsageError, match="within"):
        Shapes(within=1.0)
