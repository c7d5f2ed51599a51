"""Masks are judged as the cuts they stand for, in forward passes alone, in the memory of one."""

import weakref
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from graphprune.analysis.analyse import analyze
from graphprune.gates.gated import gate
from graphprune.ir.plan import Plan
from graphprune.pruning.policy.bundles import Masks, tie_up
from graphprune.pruning.policy.losses import MaskLosses, parts_of
from graphprune.pruning.search.mask_probe import repeated
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import Batch
from graphprune.running.loss import Loss, batch_loss
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")
ROWS = torch.randint(3, 60, (8, 24), generator=torch.Generator().manual_seed(0))
KINDS = ("attention", "mlp")


def losses(batches: tuple[Tensor, ...] = tuple(ROWS.split(4)), rows: int = 2, loss: Loss | None = None) -> MaskLosses:
    candidates = [group for group in analyze(tiny_graph()).prunable() if group.kind in KINDS]
    bundles = tie_up(candidates, {g.id: torch.arange(g.units).float() for g in candidates}, 4)
    return MaskLosses(gate(tiny_graph(), candidates, "survivors"), bundles, parts_of(batches, rows), loss, 0)


def masks(count: int, size: int) -> Masks:
    found = numpy.random.default_rng(1).random((count, size)) < 0.6
    found[:, ::4] = True  # one of each group at least
    return numpy.asarray(found)


def test_a_mask_costs_what_its_cut_costs_on_the_text_of_the_step() -> None:
    judge = losses()
    some = masks(4, len(judge.bundles))
    for step in (0, 5):
        found = judge(some, step)
        text = judge.parts[numpy.random.default_rng((0, step, 1)).integers(len(judge.parts))]
        kept = judge.bundles.factors(some, torch.zeros(1))
        for number in range(4):
            keep = {id: tuple(torch.nonzero(units[number]).flatten().tolist()) for id, units in kept.items()}
            keep = {id: units for id, units in keep.items() if len(units) < kept[id].shape[1]}
            with torch.no_grad():
                expected = float(batch_loss(apply(tiny_graph(), Plan(keep, (), "survivors")), text))
            assert found[number] == pytest.approx(expected, rel=1e-5)


def test_steps_see_other_rows_of_token_ids_and_whole_batches_of_others() -> None:
    assert [len(part) for part in losses().parts] == [2, 2, 2, 2]
    named = ({"image": torch.zeros(3, 2)}, {"image": torch.ones(2, 2)})
    assert parts_of(named, 1) == named


def test_nothing_is_kept_for_a_backward_and_weights_stay_as_they_are() -> None:
    before = {name: tensor.clone() for name, tensor in tiny_graph().tensors().items()}
    told = list[tuple[bool, bool]]()

    def loss(outputs: tuple[Tensor, ...], _: Batch) -> Tensor:
        told.append((outputs[0].is_inference(), torch.is_grad_enabled()))
        return outputs[0].square().mean()

    judge = losses(loss=loss)
    judge(masks(3, len(judge.bundles)), 0)
    assert told == [(True, False)] * 3
    after = tiny_graph().tensors()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


class Peak(TorchDispatchMode):
    """The bytes that tensors made within it hold at most, each storage once."""

    def __init__(self) -> None:
        super().__init__()
        self.held, self.now, self.most = dict[int, int](), 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self.hold(tensor, given)
        return found

    def hold(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place in given and place not in self.held:
            return  # of before
        if place not in self.held:
            self.held[place], self.now = 0, self.now + size
            self.most = max(self.most, self.now)
        self.held[place] += 1
        weakref.finalize(tensor, self.let_go, place, size)

    def let_go(self, place: int, size: int) -> None:
        self.held[place] -= 1
        if not self.held[place]:
            del self.held[place]
            self.now -= size


def test_the_memory_is_that_of_a_forward() -> None:
    """Of the same rows through the graph without gates, with the losses of each part."""
    judge = losses(rows=4)
    some, text = masks(4, len(judge.bundles)), judge.parts[0]
    with torch.inference_mode(), Peak() as plain:
        batch_loss(tiny_graph(), repeated(text, 4))
    with Peak() as masked:
        judge.run(some, text)
    assert masked.most <= 1.2 * plain.most
