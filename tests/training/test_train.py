"""Training: what is learned, what is deterministic, what a resumed run and a carried optimizer end with."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.errors import TrainingError, UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.ir.verification import verify
from graphprune.rewriting.apply import apply
from graphprune.running.loss import next_token_loss
from graphprune.training.divergence import Watch, require_sense
from graphprune.training.metrics import Moment
from graphprune.training.optimizer.moments import KINDS
from graphprune.training.options import TrainOptions
from graphprune.training.train import train
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=6, rows=4, lr=3e-3, device="cpu")


def equal(one: Graph, other: Graph) -> bool:
    """The same weights, to the last bit."""
    left, right = one.tensors(), other.tensors()
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@dataclass
class Log:
    """Collects what a training reports."""

    moments: list[Moment] = field(default_factory=list)

    def __call__(self, moment: Moment) -> None:
        self.moments.append(moment)


def test_the_loss_falls_and_the_given_graph_stays() -> None:
    source, log = tiny_graph(), Log()
    before = {name: tensor.clone() for name, tensor in source.tensors().items()}
    options = replace(OPTIONS, steps=60, lr=1e-2, eval_every=20)
    trained = train(source, options, Rows(), held_out=held_out(), report=log)
    assert all(torch.equal(before[name], tensor) for name, tensor in source.tensors().items())
    assert not source.companions
    verify(trained.graph)
    start = next_token_loss(source, held_out().view(-1, 12)).item()
    end = next_token_loss(trained.graph, held_out().view(-1, 12)).item()
    assert end < start - 0.5
    assert trained.held_out is not None
    assert trained.held_out < start - 0.5
    assert (trained.steps, trained.tokens) == (60, 60 * 4 * 12)
    assert [m.step for m in log.moments if m.held_out is not None][-1] == 60
    assert all(p.requires_grad == source.parameters()[n].requires_grad for n, p in trained.graph.parameters().items())


def test_tied_parameters_stay_tied() -> None:
    graph = train(tiny_graph(), OPTIONS, Rows()).graph
    assert graph.parameter_count() == tiny_graph().parameter_count()
    assert list(graph.companions["exp_avg"]) == list(graph.parameters())


def test_the_same_seed_twice_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    one = train(tiny_graph(), OPTIONS, Rows(), folder=tmp_path / "one")
    two = train(tiny_graph(), OPTIONS, Rows(), folder=tmp_path / "two")
    assert equal(one.graph, two.graph)
    assert [row["loss"] for row in lines(tmp_path / "one")] == [row["loss"] for row in lines(tmp_path / "two")]
    other = train(tiny_graph(), OPTIONS, Rows(seed=5))
    assert not equal(one.graph, other.graph)


@dataclass(frozen=True)
class Uneven:
    """Rows of which every second counts in its last tokens only."""

    length: int = 12

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        ids, labels = Rows().rows(start, count)
        for number in range(start, start + count):
            if number % 2:
                labels[number - start, :9] = -100
        return ids, labels


def test_accumulation_equals_the_larger_batch_also_with_unequal_masks(tmp_path: Path) -> None:
    whole = train(tiny_graph(), OPTIONS, Uneven(), folder=tmp_path / "whole")
    parts = train(tiny_graph(), replace(OPTIONS, rows=1, accumulate=4), Uneven(), folder=tmp_path / "parts")
    for one, other in zip(lines(tmp_path / "whole"), lines(tmp_path / "parts"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    for name, tensor in whole.graph.parameters().items():
        torch.testing.assert_close(tensor, parts.graph.parameters()[name], atol=1e-4, rtol=1e-3)


def test_two_stages_with_carried_moments_are_one_run_bit_for_bit() -> None:
    options = replace(OPTIONS, steps=10)
    whole = train(tiny_graph(), options, Rows())
    first = train(tiny_graph(), replace(options, steps=4, total_steps=10), Rows())
    between = apply(first.graph, Plan())  # a cut that cuts nothing
    place = {"first_step": 4, "first_row": 16, "total_steps": 10}
    second = train(between, replace(options, steps=6, **place), Rows())
    assert equal(second.graph, whole.graph)
    assert second.graph.memo["moments"] == {"updates": 10}
    reset = train(between, replace(options, steps=6, moments="reset", **place), Rows())
    assert reset.graph.memo["moments"] == {"updates": 6}
    assert not equal(reset.graph, whole.graph)


def test_a_cut_slices_the_moments_with_their_parameters() -> None:
    trained = train(tiny_graph(), OPTIONS, Rows()).graph
    groups = analyze(trained).groups
    group = next(g for g in groups if g.kind == "mlp")
    kept = tuple(range(0, group.units, 2))
    cut = apply(trained, Plan({group.id: kept}))
    sliced = [slot for slot in group.slots if slot.name in cut.companions["exp_avg"]]
    assert len(sliced) == 3
    for kind in KINDS:
        for slot in sliced:
            whole = trained.companions[kind][slot.name]
            wanted = whole.index_select(slot.dim, torch.tensor(kept))
            assert torch.equal(cut.companions[kind][slot.name], wanted)
            assert wanted.abs().sum() > 0
    again = train(cut, replace(OPTIONS, steps=2, first_row=24), Rows())
    assert again.graph.memo["moments"] == {"updates": 8}
    verify(again.graph)


def test_masked_labels_do_not_contribute(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Wrong:
        length: int = 12

        def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
            ids, labels = Rows().rows(start, count)
            ids[0, -1] = 7  # nothing is predicted from a row's last token, and its own label is masked
            labels[:, 6:] = -100
            return ids, labels

    @dataclass(frozen=True)
    class Right(Wrong):
        def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
            ids, labels = Rows().rows(start, count)
            labels[:, 6:] = -100
            return ids, labels

    one = train(tiny_graph(), OPTIONS, Wrong(), folder=tmp_path / "one")
    two = train(tiny_graph(), OPTIONS, Right(), folder=tmp_path / "two")
    assert [row["loss"] for row in lines(tmp_path / "one")] == [row["loss"] for row in lines(tmp_path / "two")]
    assert equal(one.graph, two.graph)


def test_the_loss_is_the_next_token_loss(tmp_path: Path) -> None:
    train(tiny_graph(), replace(OPTIONS, steps=1), Rows(), folder=tmp_path)
    expected = next_token_loss(tiny_graph(), Rows().rows(0, 4)[0]).item()
    (row,) = lines(tmp_path)
    assert row["loss"] == pytest.approx(expected, rel=1e-6)
    assert row["ce"] == row["loss"]
    assert (row["step"], row["stage"], row["tokens"], row["kd"]) == (1, 0, 48, None)
    assert row["lr"] == OPTIONS.rate(0)


def test_gradients_are_clipped_and_weight_decay_spares_vectors() -> None:
    options = replace(OPTIONS, steps=1, lr=1e-2, weight_decay=0.5, warmup=0.0, decay=0.0)
    masked = Rows(masked=12)  # no gradient at all: what changes is decay
    source, result = tiny_graph().parameters(), train(tiny_graph(), options, masked).graph.parameters()
    for name, tensor in source.items():
        wanted = tensor * (1 - 1e-2 * 0.5) if tensor.dim() > 1 else tensor
        torch.testing.assert_close(result[name], wanted.detach(), check_stride=False)
    clipped = train(tiny_graph(), replace(OPTIONS, steps=1, clip=1e-3), Rows()).graph
    total = math.sqrt(sum(float(t.square().sum()) for t in clipped.companions["exp_avg"].values()))
    assert total == pytest.approx(1e-3 * (1 - OPTIONS.betas[0]), rel=1e-3)


def test_mixed_precision_trains_weights_in_float32(tmp_path: Path) -> None:
    narrow = train(tiny_graph(), replace(OPTIONS, precision="bf16"), Rows(), folder=tmp_path / "narrow")
    train(tiny_graph(), OPTIONS, Rows(), folder=tmp_path / "wide")
    assert all(p.dtype == torch.float32 for p in narrow.graph.parameters().values())
    losses = [[row["loss"] for row in lines(tmp_path / name)] for name in ("narrow", "wide")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


@dataclass(frozen=True)
class Drawn:
    """Rows of drawn tokens: whatever a model makes of them, on average its loss is the uniform guess or above."""

    length: int = 12

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        ids = torch.randint(64, (count, self.length), generator=torch.Generator().manual_seed(start))
        return ids, ids.clone()


def test_the_best_state_is_returned_and_the_start_may_be_it() -> None:
    wild = replace(OPTIONS, steps=12, lr=5.0, eval_every=4, divergence=1e9, warmup=0.0)
    drawn = Drawn().rows(0, 20)[0].flatten()
    start = train(tiny_graph(), wild, Drawn(), held_out=drawn)
    assert start.best_step == 0
    assert equal(start.graph, tiny_graph())
    last = train(tiny_graph(), replace(wild, keep="last"), Drawn(), held_out=drawn)
    assert last.best_step == 12
    assert last.held_out is not None
    assert start.held_out is not None
    assert last.held_out > start.held_out + 1
    assert not equal(last.graph, start.graph)


class Turning(Rows):
    """Rows that teach the arithmetic in the first six steps, and another one from then on."""

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        ids, labels = super().rows(start, count)
        return ids, labels if start < 6 * OPTIONS.rows else (labels + 31) % self.vocabulary


@pytest.mark.parametrize("kept", [True, False])
def test_the_best_state_is_one_of_the_middle(kept: bool, tmp_path: Path) -> None:
    folder = tmp_path if kept else None
    turning = replace(OPTIONS, steps=12, lr=1e-2, warmup=0.0, decay=0.0, eval_every=1)
    trained = train(tiny_graph(), turning, Turning(), held_out=held_out(), folder=folder)
    assert 4 <= trained.best_step <= 8
    short = train(tiny_graph(), replace(turning, steps=trained.best_step, total_steps=12, keep="last"), Turning())
    assert equal(trained.graph, short.graph)
    for kind in KINDS:
        for name, tensor in short.graph.companions[kind].items():
            assert torch.equal(trained.graph.companions[kind][name], tensor)
    if folder is not None:
        losses = [row["held_out"] for row in lines(folder)]
        assert losses[trained.best_step - 1] < min(losses[0], losses[-1]) - 0.05


def test_a_rising_loss_stops_with_what_to_lower() -> None:
    # Weights of size 5 and more are sure of themselves, and nobody can be sure of drawn tokens.
    options = replace(OPTIONS, steps=200, lr=5.0, warmup=0.0, eval_every=2, clip=0.0)
    with pytest.raises(TrainingError, match=r"diverged: the loss is .* at step .*; lower lr \(now 5\)"):
        train(tiny_graph(), options, Drawn(), held_out=Drawn().rows(0, 20)[0].flatten())
    with pytest.raises(TrainingError, match=r"over 20 steps up to step 20, worse than a uniform guess \(4\.159\).*lr"):
        train(tiny_graph(), replace(options, eval_every=0), Drawn())


GUESS = math.log(64)


def watched(losses: Sequence[float], best: float | None = None) -> None:
    """Watch windows of these cross entropies after a first step."""
    watch = Watch(best=best).trained(losses[0])
    step = 1
    for loss in losses:
        for _ in range(20 - watch.count):
            step, watch = step + 1, watch.trained(loss)
            require_sense(watch, step, GUESS, OPTIONS)


def test_a_window_above_the_uniform_guess_is_divergence_whatever_was_best() -> None:
    with pytest.raises(TrainingError, match=r"27\.800 nats over 20 steps up to step 40.*; it was 4\.100; lower lr"):
        watched([4.1, 27.8])
    with pytest.raises(TrainingError, match="worse than a uniform guess"):
        watched([2.0, 4.5], best=30.0)
    with pytest.raises(TrainingError, match=r"it was 8\.000"):
        watched([9.0, 8.0, 8.5])


def test_a_broken_model_may_recover_and_an_untrained_one_begin() -> None:
    watched([30.0, 28.0, 20.0, 6.0, 3.0, 4.1])  # cut far too deep, and better with every window
    watched([4.2, 4.25, 4.18, 4.2, 3.9])  # from scratch: at the guess, up and down by luck


def test_a_loss_that_is_no_number_stops_with_the_step() -> None:
    name = next(iter(tiny_graph().parameters()))
    weight = torch.nn.Parameter(torch.full_like(tiny_graph().parameters()[name], math.nan))
    broken = tiny_graph().with_tensors({name: weight})
    with pytest.raises(TrainingError, match=r"the loss is nan at step 1; lower lr"):
        train(broken, OPTIONS, Rows())


def test_want_of_memory_says_what_to_lower() -> None:
    @dataclass(frozen=True)
    class Large(Rows):
        def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
            torch.empty(1 << 60)  # the allocator says no, in its own words
            raise AssertionError

    with pytest.raises(TrainingError, match=r"out of memory at 4 rows of 12 tokens: lower rows .* precision=bf16"):
        train(tiny_graph(), OPTIONS, Large())


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"lr": 0.0}, "lr of training is above 0"),
    ({"steps": -1}, "steps of training is 0 or more"),
    ({"rows": 0}, "rows of training is 1 or more"),
    ({"distill": 1.5}, "distill is a share"),
    ({"schedule": "linear"}, "schedule is wsd, cosine, constant, not 'linear'"),
    ({"first_step": 8, "total_steps": 10}, "steps 8 to 14 do not fit in total_steps=10"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(OPTIONS, **options)


def test_what_can_not_be_trained_is_refused() -> None:
    with pytest.raises(UsageError, match="'quux' is no device"):
        train(tiny_graph(), replace(OPTIONS, device="quux"), Rows())
    name = "model.norm.weight"
    half = tiny_graph().with_tensors({name: torch.nn.Parameter(tiny_graph().tensors()[name].detach().half())})
    with pytest.raises(UsageError, match=r"model.norm.weight is not in float32"):
        train(half, OPTIONS, Rows())
    with pytest.raises(UsageError, match="rows of 1 token"):
        train(tiny_graph(), OPTIONS, Rows(length=1))


def test_tensorboard_files_are_written(tmp_path: Path) -> None:
    train(tiny_graph(), replace(OPTIONS, tensorboard=True), Rows(), folder=tmp_path)
    assert any((tmp_path / "tensorboard").iterdir())
