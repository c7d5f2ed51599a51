"""AdamW a parameter at a time: torch's bits in float32, its way in less, and steps within backward."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune.analysis.analyse import analyze
from graphprune.errors import UsageError
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from graphprune.training.distributed import is_sharded
from graphprune.training.optimizer import adamw
from graphprune.training.optimizer.adamw import AdamW, make_adamw, set_rate
from graphprune.training.options import TrainOptions
from graphprune.training.train import train
from tests.support.rows import Rows
from tests.support.tiny_llama import tiny_graph
from tests.training.test_train import OPTIONS, equal, lines

pytestmark = pytest.mark.xdist_group("tiny_llama")
NARROW = ("bf16", "int8")
narrows = pytest.mark.parametrize("states", NARROW)


def parameters() -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((40, 30), (30,), (700,))
    made = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
    return [*made, nn.Parameter(torch.randn(8, 6, generator=draw).t())]  # memory in another order


def named(given: list[nn.Parameter]) -> dict[str, nn.Parameter]:
    return {str(place): parameter for place, parameter in enumerate(given)}


def stepped(optimizer: torch.optim.Optimizer, given: list[nn.Parameter], steps: int = 5) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    for step in range(steps):
        set_rate(optimizer, 1e-2 / (1 + step))
        for parameter in given:
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=draw))
        optimizer.step()
    return [parameter.detach().clone() for parameter in given]


def test_in_float32_it_gives_torchs_bits_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamw, "_SLICE", 256)
    options = replace(OPTIONS, weight_decay=0.1, clip=0.0)
    ours, theirs = parameters(), parameters()
    made, usual = make_adamw(named(ours), replace(options, in_backward=True)), make_adamw(named(theirs), options)
    assert isinstance(made, AdamW)
    assert isinstance(usual, torch.optim.AdamW)
    for one, other in zip(stepped(made, ours), stepped(usual, theirs), strict=True):
        assert torch.equal(one, other)


@narrows
def test_narrow_moments_go_nearly_the_same_way(states: Any) -> None:
    ours, theirs = parameters(), parameters()
    before = [parameter.detach().clone() for parameter in ours]
    narrow = stepped(make_adamw(named(ours), replace(OPTIONS, states=states)), ours, 20)
    wide = stepped(make_adamw(named(theirs), OPTIONS), theirs, 20)
    for one, other, start in zip(narrow, wide, before, strict=True):
        assert (one - other).norm() < 0.1 * (other - start).norm()
        assert not torch.equal(one, other)


@narrows
def test_training_with_narrow_moments_learns_as_much(states: Any, tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=40, lr=1e-2)
    train(tiny_graph(), options, Rows(), folder=tmp_path / "wide")
    train(tiny_graph(), replace(options, states=states), Rows(), folder=tmp_path / "narrow")
    wide, narrow = (lines(tmp_path / name) for name in ("wide", "narrow"))
    fallen = wide[0]["loss"] - wide[-1]["loss"]
    assert fallen > 0.5
    assert narrow[-1]["loss"] == pytest.approx(wide[-1]["loss"], abs=0.1 * fallen)


class Stopped(Rows):
    """Ends the training at a row."""

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        if start >= 4 * 4:
            raise KeyboardInterrupt
        return super().rows(start, count)


CASES = [{"states": "bf16"}, {"states": "int8"}, {"in_backward": True, "clip": 0.0}]


@pytest.mark.parametrize("given", CASES, ids=["bf16", "int8", "in_backward"])
def test_a_stopped_training_goes_on_to_the_same_bits(given: dict[str, Any], tmp_path: Path) -> None:
    options = replace(OPTIONS, save_every=3, **given)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_graph(), options, Stopped(), folder=tmp_path / "stopped")
    resumed = train(tiny_graph(), options, Rows(), folder=tmp_path / "stopped").graph
    straight = train(tiny_graph(), options, Rows(), folder=tmp_path / "straight").graph
    assert equal(resumed, straight)
    for kind, part in straight.companions.items():
        assert all(torch.equal(resumed.companions[kind][name], tensor) for name, tensor in part.items())
        assert all(tensor.dtype == torch.float32 for tensor in part.values())


@narrows
def test_a_cut_slices_narrow_moments_and_training_goes_on_with_them(states: Any) -> None:
    options = replace(OPTIONS, states=states)
    trained = train(tiny_graph(), options, Rows()).graph
    group = next(each for each in analyze(trained).groups if each.kind == "mlp")
    cut = apply(trained, Plan({group.id: tuple(range(0, group.units, 2))}))
    again = train(cut, replace(options, steps=2, first_row=24), Rows()).graph
    assert again.memo["moments"] == {"updates": 8}


@pytest.mark.parametrize("checkpoint", ["off", "full"])
def test_steps_in_backward_end_where_steps_after_it_do(checkpoint: Any, tmp_path: Path) -> None:
    options = replace(OPTIONS, clip=0.0, checkpoint=checkpoint)
    within = train(tiny_graph(), replace(options, in_backward=True), Rows(), folder=tmp_path / "within")
    behind = train(tiny_graph(), options, Rows(), folder=tmp_path / "behind")
    assert equal(within.graph, behind.graph)
    for one, other in zip(lines(tmp_path / "within"), lines(tmp_path / "behind"), strict=True):
        assert one["loss"] == other["loss"]
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)


REFUSED = [
    ({"accumulate": 2, "clip": 0.0}, "set accumulate=1"),
    ({}, "set clip=0"),
    ({"clip": 0.0, "precision": "fp16"}, "take precision=bf16 or none"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_needs_all_gradients_is_refused_with_the_remedy(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainOptions(steps=1, in_backward=True, **given)


@pytest.mark.parametrize("given", CASES, ids=["bf16", "int8", "in_backward"])
def test_parts_of_weights_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="take whole weights; leave them out, or shard"):
        is_sharded(replace(OPTIONS, shard=True, **given), SimpleNamespace(num_processes=2))  # type: ignore[arg-type]
