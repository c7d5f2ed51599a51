"""Masks trained with weights: what is folded is what ran, the shape is met exactly, a kill changes nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.errors import UsageError
from graphprune.gates.gated import gate
from graphprune.ir.graph import Graph
from graphprune.running.inputs import decoder_inputs
from graphprune.training.loop import advance
from graphprune.training.options import TrainOptions
from graphprune.training.session import make_accelerator, prepare
from graphprune.training.shearing.masks import HardConcrete, Shearing, analyzed
from graphprune.training.train import train
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import ids, tiny_graph
from tests.training.test_train import equal, lines

pytestmark = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=12, rows=2, accumulate=2, lr=3e-3, schedule="cosine", keep="last", device="cpu")
WIDTHS = {"mlp": 13, "attention": 3, "residual": 24}


def asked(layers: int = 0, **changes: float) -> HardConcrete:
    groups = analyze(tiny_graph()).prunable(frozenset(WIDTHS))
    return HardConcrete(tuple(f"{g.id}={WIDTHS[g.kind]}" for g in groups), layers, **changes)


def logits(graph: Graph) -> torch.Tensor:
    result = graph(*decoder_inputs(graph, ids(2, 12)))
    return result[graph.outputs.index("logits")].detach()


def test_what_is_cut_is_what_the_gates_computed() -> None:
    made = prepare(make_accelerator(OPTIONS), tiny_graph(), OPTIONS, Rows(), None, None, None, asked(layers=1))
    learning = made.learning
    assert isinstance(learning, Shearing)
    advance(made, 0)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for position in learning.positions.values():
            position.copy_(torch.rand(position.shape, generator=draw))
    cut = learning.finish(learning.plain.graph)
    gated = gate(learning.plain.graph, analyzed(learning.plain.graph, learning.candidates), "survivors")
    values = {id: value for each in learning.sets for id, value in learning.final_values(gated, each).items()}
    with torch.no_grad():
        soft = gated(values, *decoder_inputs(tiny_graph(), ids(2, 12)))[tiny_graph().outputs.index("logits")]
    torch.testing.assert_close(logits(cut), soft, rtol=1e-4, atol=1e-4)
    assert any(bool(((value > 0) & (value < 1)).any()) for value in values.values()), "survivors stay soft"
    groups = analyze(cut)
    assert {g.kind: g.units for g in groups.prunable(frozenset(WIDTHS))} == WIDTHS
    assert len(groups.branches) == 2, "of one layer"


def test_the_loss_falls_targets_are_met_and_the_shape_is_exact(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=150, accumulate=1, rows=4, eval_every=50, divergence=1e9)
    trained = train(tiny_graph(), options, Rows(), held_out=held_out(), folder=tmp_path, learner=asked())
    assert {g.kind: g.units for g in analyze(trained.graph).prunable(frozenset(WIDTHS))} == WIDTHS
    gone, wanted = trained.learned["sparsity"], trained.learned["targets"]
    assert all(abs(gone[name] - wanted[name]) < 0.06 for name in wanted), (gone, wanted)
    found = lines(tmp_path)
    assert found[0]["terms"]["lagrangian"] == pytest.approx(0.0, abs=1e-6), "multipliers begin at nothing"
    assert found[-1]["held_out"] < found[49]["held_out"]
    moments = trained.graph.companions["exp_avg"]
    assert all(moments[name].shape == p.shape for name, p in trained.graph.parameters().items())


def test_multipliers_ascend_and_masks_are_drawn_anew_and_alike_for_a_place() -> None:
    made = prepare(make_accelerator(OPTIONS), tiny_graph(), OPTIONS, Rows(), None, None, None, asked())
    learning = made.learning
    assert isinstance(learning, Shearing)
    rates = learning.rates()
    assert {rate.ascends for name, rate in rates.items() if name.startswith("multipliers/")} == {True}
    assert rates["gates/" + learning.sets[0].name].factor == pytest.approx(0.1 * 640 / 12 / 3e-3)
    assert HardConcrete().mask_rate(999) == 0.1
    assert HardConcrete().mask_rate(1000) == 1.0
    drawn = []
    for place in ((0, 0), (0, 1), (1, 0), (0, 1)):
        learning.before_forward(*place)
        gates = (getattr(learning.gated.module, name) for name in learning.gated.buffers.values())
        drawn.append(torch.cat([gate.flatten() for gate in gates]))
    assert torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_a_killed_training_of_masks_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(OPTIONS, save_every=2)
    wanted = train(tiny_graph(), options, Rows(), folder=tmp_path / "whole", learner=asked(layers=1))

    class KilledError(Exception):
        pass

    def die(self: Shearing, done: int) -> None:
        if done == 7:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Shearing, "after_step", die)
        with pytest.raises(KilledError):
            train(tiny_graph(), options, Rows(), folder=tmp_path / "killed", learner=asked(layers=1))
    found = train(tiny_graph(), options, Rows(), folder=tmp_path / "killed", learner=asked(layers=1))
    assert equal(found.graph, wanted.graph)
    assert found.learned == wanted.learned


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (HardConcrete(("nowhere=3",)), "hard-concrete: there is no group nowhere"),
        (HardConcrete(("model.layers.1.mlp.gate_proj.weight:0",)), "is no group and the units that stay; write ID=12"),
        (HardConcrete(), "hard-concrete has nothing to learn"),
    ],
)
def test_what_cannot_be_learned_is_said(learner: HardConcrete, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(tiny_graph(), OPTIONS, Rows(), learner=learner)
