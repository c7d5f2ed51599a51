"""The learner that shrinks: it ends within a unit of its target, goes on after a kill, and may have nothing to do."""

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphprune.analysis.analyse import analyze
from graphprune.budget.quantities import parse_quantity
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.running.perplexity import perplexity
from graphprune.training.options import TrainOptions
from graphprune.training.shrinking.least_salient import LeastSalient
from graphprune.training.shrinking.shrinking import Shrinking
from graphprune.training.train import train
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import tiny_graph
from tests.training.learning.test_learner import same
from tests.training.shrinking.test_shrinking import OPTIONS, asked

pytestmark = pytest.mark.xdist_group("tiny_llama")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("quantity", ["parameters", "cache"])
def test_it_ends_within_a_unit_of_the_target_and_falls_all_the_way(quantity: str, tmp_path: Path) -> None:
    def cost(graph: Graph) -> int:
        groups = analyze(graph)
        return parse_quantity(quantity).cost(groups)(groups.sizes())

    target = cost(tiny_graph()) * 5 // 8
    learner = replace(asked(tiny_graph()), target=target, quantity=quantity)
    options = replace(OPTIONS, steps=20, eval_every=5)
    found = train(tiny_graph(), options, Rows(), held_out=held_out(), folder=tmp_path, learner=learner)
    groups = analyze(found.graph)
    count = parse_quantity(quantity).cost(groups)
    slopes = [count.slope(groups.sizes(), g.id) for g in groups.prunable(frozenset({"mlp", "attention", "residual"}))]
    assert target - min(slope for slope in slopes if slope > 0) < cost(found.graph) <= target
    left = [line["learner"]["left"] for line in lines(tmp_path) if "left" in line.get("learner", {})]
    assert left[0] == 1.0
    assert left == sorted(left, reverse=True)
    costs = [line["cost"] for line in found.learned["log"]]
    assert costs == sorted(set(costs), reverse=True)
    assert lines(tmp_path)[-1]["held_out"] is not None
    moments = found.graph.companions["exp_avg"]
    assert all(moments[name].shape == p.shape for name, p in found.graph.parameters().items())


@pytest.mark.parametrize("compensate", ["none", "obs"])
@pytest.mark.parametrize("death", [2, 7, 11])
def test_a_killed_shrinking_ends_with_the_same_bits(
    compensate: Any, death: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, steps=12, accumulate=2, rows=2, save_every=2)
    learner = asked(tiny_graph(), compensate=compensate, every=2, batch=0.1)
    wanted = train(tiny_graph(), options, Rows(), folder=tmp_path / "whole", learner=learner)

    class KilledError(Exception):
        pass

    after_step = Shrinking.after_step

    def die(self: Shrinking, done: int) -> Any:
        if done == death:
            raise KilledError
        return after_step(self, done)

    with monkeypatch.context() as patch:
        patch.setattr(Shrinking, "after_step", die)
        with pytest.raises(KilledError):
            train(tiny_graph(), options, Rows(), folder=tmp_path / "killed", learner=learner)
    found = train(tiny_graph(), options, Rows(), folder=tmp_path / "killed", learner=learner)
    assert same(found, wanted)
    assert found.learned == wanted.learned


def test_with_nothing_to_do_it_is_the_training_of_all_weights_to_the_bit(tmp_path: Path) -> None:
    learner = replace(asked(tiny_graph()), target=tiny_graph().parameter_count(), compensate="obs")
    plain = train(tiny_graph(), OPTIONS, Rows(), held_out=held_out(), folder=tmp_path / "plain")
    found = train(tiny_graph(), OPTIONS, Rows(), held_out=held_out(), folder=tmp_path / "shrink", learner=learner)
    assert same(found, plain)


def test_what_stays_takes_over_what_went() -> None:
    options, losses = replace(OPTIONS, steps=10, rows=64, lr=1e-12, eval_every=10), dict[str, float]()
    for compensate in ("none", "obs"):
        learner = asked(tiny_graph(), 0.8, compensate=compensate)
        found = train(trained(), options, Rows(), held_out=held_out(), learner=learner)
        assert found.held_out is not None
        losses[compensate] = perplexity(found.graph, held_out(), 12).nats_per_token
    assert losses["obs"] < losses["none"], losses


@functools.cache
def trained() -> Graph:
    """The tiny model after some training, so that there is something to lose."""
    options = TrainOptions(steps=120, rows=8, lr=1e-2, keep="last", device="cpu")
    return train(tiny_graph(), options, Rows()).graph


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (LeastSalient(("nowhere=3",)), "least-salient: there is no group nowhere"),
        (LeastSalient(("model.layers.1.mlp.gate_proj.weight:0",)), "how many of its units stay|is no group and"),
        (LeastSalient(("model.layers.1.mlp.gate_proj.weight:0=3",), every=9), "8 steps are fewer than every=9"),
    ],
)
def test_what_cannot_be_done_is_said(learner: LeastSalient, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(tiny_graph(), OPTIONS, Rows(), learner=learner)


def test_moments_of_inputs_are_seen_by_one_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="compensate=obs looks at the tokens of one process"):
        asked(tiny_graph(), compensate="obs").begin(tiny_graph(), OPTIONS)
