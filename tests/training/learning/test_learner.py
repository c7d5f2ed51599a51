"""Learners: hooks in their places, terms and rates of their own, cuts in the middle, and nothing where nothing is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, final

import pytest
import torch
from torch import Tensor, nn

from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from graphprune.training.adapters import Trainee, whole
from graphprune.training.learning.learner import Kept, Learner, Learning, Rate
from graphprune.training.learning.weights import Full, Lora, learner_of
from graphprune.training.loop import advance
from graphprune.training.options import LoraOptions, TrainOptions
from graphprune.training.session import make_accelerator, prepare
from graphprune.training.train import Trained, train
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import tiny_graph
from tests.training.test_train import equal, lines

pytestmark = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=6, rows=2, accumulate=2, lr=3e-3, device="cpu")
CHANNELS = "model.layers.1.mlp.gate_proj.weight:0"
CUT = Plan({CHANNELS: tuple(range(0, 24, 2))}, ("model.layers.0.mlp",))


@final
class Idle(Learning):
    """Trains all weights and does nothing else."""

    def __init__(self, graph: Graph) -> None:
        self.made = whole(graph)

    @property
    def trainee(self) -> Trainee:
        return self.made


@final
@dataclass(frozen=True)
class Nothing(Learner):
    name: ClassVar[str] = "nothing"

    def begin(self, graph: Graph, options: TrainOptions) -> Learning:
        return Idle(graph)


def same(one: Trained, other: Trained) -> bool:
    measured = [(each.steps, each.loss, each.held_out, each.best_step) for each in (one, other)]
    moments = [each.graph.companions for each in (one, other)]
    alike = all(torch.equal(t, moments[1][k][n]) for k, part in moments[0].items() for n, t in part.items())
    return equal(one.graph, other.graph) and measured[0] == measured[1] and alike


@pytest.mark.parametrize("teacher", [None, tiny_graph], ids=["text", "teacher"])
def test_a_learner_that_does_nothing_is_a_training_without_one(teacher: object, tmp_path: Path) -> None:
    options = replace(OPTIONS, eval_every=2, distill=0.0 if teacher is None else 0.5)
    taught = None if teacher is None else tiny_graph()
    plain = train(tiny_graph(), options, Rows(), taught, held_out(), tmp_path / "plain")
    idle = train(tiny_graph(), options, Rows(), taught, held_out(), tmp_path / "idle", learner=Nothing())
    assert same(plain, idle)
    for one, other in zip(lines(tmp_path / "plain"), lines(tmp_path / "idle"), strict=True):
        assert {**one, "tokens_per_s": 0} == {**other, "tokens_per_s": 0}


def test_the_learners_of_today_are_what_the_options_say() -> None:
    pytest.importorskip("peft")
    assert learner_of(OPTIONS) == Full()
    lora = LoraOptions(rank=2, dropout=0.1)
    assert learner_of(replace(OPTIONS, lora=lora)) == Lora(2, 32.0, 0.1)
    assert same(train(tiny_graph(), OPTIONS, Rows(), learner=Full()), train(tiny_graph(), OPTIONS, Rows()))
    named = train(tiny_graph(), OPTIONS, Rows(), learner=Lora(rank=2, dropout=0.1))
    assert same(named, train(tiny_graph(), replace(OPTIONS, lora=lora), Rows()))
    with pytest.raises(UsageError, match="rank of LoRA is 1 or more"):
        Lora(rank=0)


@final
class Priced(Learning):
    """Beside the weights a number that goes up its own slope, and two terms: one of logits, one of the number."""

    reads = ("logits",)
    runs_plain = False

    def __init__(self, graph: Graph) -> None:
        made = whole(graph)
        self.price = nn.Parameter(torch.zeros(()))
        self.seen = list[float]()
        self.made = replace(made, trainable={**made.trainable, "price": self.price})

    @property
    def trainee(self) -> Trainee:
        return self.made

    def rates(self) -> Mapping[str, Rate]:
        return {"price": Rate(100.0, ascends=True)}

    def terms(self, outputs: Mapping[str, Tensor], labels: Tensor) -> Mapping[str, Tensor]:
        return {"size": 1e-3 * outputs["logits"].square().sum(-1).sum()}

    def penalties(self, step: int) -> Mapping[str, Tensor]:
        return {"price": 0.25 * self.price}

    def after_backward(self, step: int) -> None:
        assert self.price.grad is not None
        self.seen.append(float(self.price.grad))


@final
@dataclass(frozen=True)
class Pricing(Learner):
    name: ClassVar[str] = "pricing"

    def begin(self, graph: Graph, options: TrainOptions) -> Learning:
        return Priced(graph)


def test_a_tensor_that_ascends_goes_against_the_rate_of_the_weights() -> None:
    made = prepare(make_accelerator(OPTIONS), tiny_graph(), OPTIONS, Rows(), None, None, None, Pricing())
    learning = made.learning
    assert isinstance(learning, Priced)
    by_hand = nn.Parameter(torch.zeros(()))
    usual = torch.optim.AdamW([by_hand], betas=OPTIONS.betas, weight_decay=0.0)
    for step in range(4):
        advance(made, step)
        usual.param_groups[0]["lr"] = -100 * OPTIONS.rate(step)
        by_hand.grad = torch.tensor(0.25)
        usual.step()
    assert learning.seen == [0.25] * 4
    assert learning.price.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert learning.price.item() > 0


def test_the_gradient_of_a_term_is_that_of_finite_differences(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=1, accumulate=1, clip=0.0)
    learned = train(tiny_graph(), options, Rows(), folder=tmp_path, learner=Pricing())
    (line,) = lines(tmp_path)
    ids = Rows().rows(0, 2)[0]
    made = prepare(make_accelerator(options), tiny_graph(), options, Rows(), None, None, None, Pricing())

    def value(shift: float) -> float:
        weight = made.trainee.trainable["model.norm.weight"]
        with torch.no_grad():
            weight[3] += shift
            found = made.objective(ids, ids)[0].item() / 22
            weight[3] -= shift
        return found

    loss, entropy, _, terms = made.objective(ids, ids)
    assert loss.item() == pytest.approx(float(entropy) + float(terms["size"]), rel=1e-6)
    assert line["terms"] == {"price": 0.0, "size": pytest.approx(float(terms["size"]) / 22, rel=1e-5)}
    slope = (value(1e-2) - value(-1e-2)) / 2e-2
    moment = float(learned.graph.companions["exp_avg"]["model.norm.weight"][3]) / (1 - OPTIONS.beta1)
    assert moment == pytest.approx(slope, rel=2e-2)
    assert "price" not in learned.graph.companions["exp_avg"], "it is no weight of the graph"


@final
class Shrinking(Learning):
    """Cuts after three steps; counts what it saw, in a tensor, and in words."""

    def __init__(self, graph: Graph, count: Tensor, cuts: tuple[int, ...]) -> None:
        self.made, self.count, self.cuts = whole(graph), count, cuts

    @property
    def trainee(self) -> Trainee:
        return self.made

    def after_backward(self, step: int) -> None:
        self.count += step

    def after_step(self, done: int) -> Plan | None:
        if done != 3:
            return None
        self.cuts = (*self.cuts, done)
        return CUT

    def resumed(self, graph: Graph, plan: Plan) -> Learning:
        return Shrinking(graph, self.count, self.cuts)

    def state(self) -> Kept:
        return Kept({"count": self.count}, {"cuts": list(self.cuts)})

    def load(self, kept: Kept) -> None:
        self.count, self.cuts = kept.tensors["count"].clone(), tuple(kept.plain["cuts"])


@final
@dataclass(frozen=True)
class Shrink(Learner):
    name: ClassVar[str] = "shrink-by-plan"

    def begin(self, graph: Graph, options: TrainOptions) -> Learning:
        return Shrinking(graph, torch.zeros(()), ())


def test_a_cut_in_the_middle_is_a_training_a_cut_and_a_training() -> None:
    options = replace(OPTIONS, eval_every=2)
    cut = train(tiny_graph(), options, Rows(), held_out=held_out(), learner=Shrink())
    rows = 3 * OPTIONS.rows * OPTIONS.accumulate
    first = train(tiny_graph(), replace(OPTIONS, steps=3, total_steps=6), Rows())
    second = replace(OPTIONS, steps=3, first_step=3, total_steps=6, first_row=rows)
    last = train(apply(first.graph, CUT), second, Rows())
    assert equal(cut.graph, last.graph)
    assert cut.graph.lineage.plan == last.graph.lineage.plan
    assert cut.graph.companions["exp_avg"].keys() == last.graph.companions["exp_avg"].keys()
    assert cut.learned == {"cuts": [3]}
    assert cut.best_step == 6 or not math.isnan(cut.held_out or 0.0)


class KilledError(Exception):
    """In place of a signal."""


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_killed_training_goes_on_to_the_same_bits_and_memory(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, eval_every=2, save_every=1)
    wanted = train(tiny_graph(), options, Rows(), held_out=held_out(), folder=tmp_path / "whole", learner=Shrink())
    after = Shrinking.after_backward

    def die(self: Shrinking, now: int) -> None:
        after(self, now)
        if now == step:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Shrinking, "after_backward", die)
        with pytest.raises(KilledError):
            train(tiny_graph(), options, Rows(), held_out=held_out(), folder=tmp_path / "killed", learner=Shrink())
    found = train(tiny_graph(), options, Rows(), held_out=held_out(), folder=tmp_path / "killed", learner=Shrink())
    assert same(found, wanted)
    assert found.learned == wanted.learned
    with pytest.raises(UsageError, match="holds another training: learner was shrink-by-plan, is now nothing"):
        train(tiny_graph(), options, Rows(), held_out=held_out(), folder=tmp_path / "killed", learner=Nothing())


def test_what_a_learner_cannot_be_trained_with_is_said() -> None:
    options = replace(OPTIONS, accumulate=1, clip=0.0, in_backward=True)
    with pytest.raises(UsageError, match="in_backward=true is for a learner that trains all weights"):
        train(tiny_graph(), options, Rows(), learner=Pricing())
