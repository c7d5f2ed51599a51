"""AST: exact patterns, masks that settle, fixed masks to the bit, kills, branches, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.ir.verification import verify
from graphprune.passes.transforms.sparsify import Sparsify
from graphprune.pipeline.passes import Context, run_passes
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import decoder_inputs
from graphprune.training.learning.learner import Learning
from graphprune.training.loop import advance
from graphprune.training.options import TrainOptions
from graphprune.training.patterns.adaptive_sparse import AdaptiveSparse, Ast
from graphprune.training.patterns.masks import largest
from graphprune.training.session import make_accelerator, prepare
from graphprune.training.train import train
from graphprune.weights.patterns import kept_entries
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import ids, tiny_graph
from tests.training.test_train import equal

pytestmark = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=12, rows=2, accumulate=2, lr=3e-3, schedule="cosine", device="cpu")


def begun(asked: Ast, source: Graph | None = None, options: TrainOptions = OPTIONS) -> tuple[Any, AdaptiveSparse]:
    made = prepare(make_accelerator(options), source or tiny_graph(), options, Rows(), None, None, None, asked)
    assert isinstance(made.learning, AdaptiveSparse)
    return made, made.learning


def branched(size: int) -> Graph:
    return apply(tiny_graph(), Plan(edits=Ast(slorb=size).edits(tiny_graph())))


@pytest.mark.parametrize("pattern", ["2:4", "50%", "1:4"])
def test_the_pattern_is_exact_said_by_companions_and_what_was_trained(pattern: str) -> None:
    trained = train(tiny_graph(), OPTIONS, Rows(), learner=Ast(pattern=pattern, refresh=5))
    verify(trained.graph)
    kept = kept_entries(trained.graph.companions)
    assert len(kept) == 14
    for name, mask in kept.items():
        assert torch.equal(trained.graph.parameters()[name] != 0, mask)
        if pattern != "50%":
            assert int(mask.unflatten(1, (-1, 4)).sum(-1).max()) == int(pattern[0])
    share = {"2:4": 0.5, "50%": 0.5, "1:4": 0.25}[pattern]
    count = sum(mask.numel() for mask in kept.values())
    assert sum(int(mask.sum()) for mask in kept.values()) == share * count
    assert [step for step, _, _ in trained.learned["flips"]] == [5, 10]


def test_masked_weights_learn_and_the_result_is_what_ran() -> None:
    made, learning = begun(Ast(refresh=3))
    start = {name: tensor.detach().clone() for name, tensor in learning.plain.trainable.items()}
    masks = {name: kept.clone() for name, kept in learning.kept.items()}
    for step in range(2):
        advance(made, step)
        assert learning.after_step(step + 1) is None
    assert all(torch.equal(kept, masks[name]) for name, kept in learning.kept.items())
    moved = [~torch.eq(start[n], learning.plain.trainable[n]) & ~kept for n, kept in masks.items()]
    assert all(bool(each.any()) for each in moved), "what is masked has gradients"
    advance(made, 2)
    learning.after_step(3)
    calls = learning.places.calls
    again = largest(calls, learning.plain.trainable, learning.pattern)
    assert all(torch.equal(kept, again[name]) for name, kept in learning.kept.items())
    assert learning.flips[0][1] == learning.flips[0][2] > 0
    inputs = decoder_inputs(tiny_graph(), ids(2, 12))
    merged = tiny_graph().with_tensors({n: torch.nn.Parameter(t) for n, t in learning.merged().items()})
    with torch.no_grad():
        assert torch.equal(merged(*inputs)[0], learning.running(*inputs)[0])


def test_the_pull_ends_the_wandering_and_without_it_masks_go_on() -> None:
    options = replace(OPTIONS, steps=200, accumulate=1, rows=4, keep="last")
    rates: dict[float, list[float]] = {}
    notes = {}
    for decay in (3.0, 0.0):
        trained = train(tiny_graph(), options, Rows(), learner=Ast(refresh=2, decay=decay))
        rates[decay] = [now for _, now, _ in trained.learned["flips"]]
        notes[decay] = trained.graph.notes
    last = {decay: sum(found[-10:]) / 10 for decay, found in rates.items()}
    assert last[3.0] < 0.1 * max(rates[3.0]), (last, max(rates[3.0]))
    assert last[0.0] > 2 * last[3.0], last
    assert not any("masks still moved" in note for note in notes[3.0])


def test_without_pull_and_refresh_it_is_training_under_a_fixed_mask_to_the_bit() -> None:
    options = replace(OPTIONS, clip=0.0)  # of a norm: masked weights have gradients too
    fixed = run_passes(tiny_graph(), [Sparsify(pattern="2:4", method="magnitude")], Context())
    wanted = train(replace(fixed, lineage=tiny_graph().lineage), options, Rows(), tiny_graph(), held_out())
    found = train(tiny_graph(), options, Rows(), tiny_graph(), held_out(), learner=Ast(refresh=0, decay=0.0))
    assert equal(found.graph, wanted.graph)
    one, other = kept_entries(found.graph.companions), kept_entries(wanted.graph.companions)
    assert all(torch.equal(kept, other[name]) for name, kept in one.items())


@pytest.mark.parametrize("slorb", [0, 8])
def test_a_killed_training_ends_with_the_same_bits(slorb: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, asked = replace(OPTIONS, save_every=4, eval_every=4), Ast(refresh=3, slorb=slorb)
    source = branched(slorb) if slorb else tiny_graph()
    wanted = train(source, options, Rows(), None, held_out(), tmp_path / "whole", learner=asked)

    class KilledError(Exception):
        pass

    after_step = AdaptiveSparse.after_step

    def die(self: AdaptiveSparse, done: int) -> None:
        if done == 7:
            raise KilledError
        after_step(self, done)

    with monkeypatch.context() as patch:
        patch.setattr(AdaptiveSparse, "after_step", die)
        with pytest.raises(KilledError):
            train(source, options, Rows(), None, held_out(), tmp_path / "killed", learner=asked)
    found = train(source, options, Rows(), None, held_out(), tmp_path / "killed", learner=asked)
    assert equal(found.graph, wanted.graph)
    assert found.learned == wanted.learned
    one, other = found.graph.companions, wanted.graph.companions
    assert all(torch.equal(t, other[kind][n]) for kind, part in one.items() for n, t in part.items())


def test_the_best_weights_have_the_masks_that_they_were_measured_with(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=12, eval_every=2, lr=0.5, schedule="constant", divergence=1e9)
    for folder in (None, tmp_path):
        trained = train(tiny_graph(), options, Rows(), None, held_out(), folder, learner=Ast(refresh=1))
        assert trained.best_step < 12
        short = replace(options, steps=max(1, trained.best_step), total_steps=12, keep="last")
        if trained.best_step:
            same = train(tiny_graph(), short, Rows(), None, held_out(), learner=Ast(refresh=1))
            assert equal(trained.graph, same.graph)
        else:
            _, learning = begun(Ast(refresh=1))
            assert all(torch.equal(trained.graph.parameters()[n], w) for n, w in learning.merged().items())
        assert len(kept_entries(trained.graph.companions)) == 14


def test_it_is_the_same_whatever_is_held_for_backward() -> None:
    def trained(**changes: Any) -> Any:
        return train(tiny_graph(), replace(OPTIONS, **changes), Rows(), tiny_graph(), learner=Ast(refresh=3))

    held = trained(checkpoint="off")
    assert all(equal(trained(checkpoint=way).graph, held.graph) for way in ("selective", "full"))
    assert trained(precision="bf16").loss == pytest.approx(held.loss, abs=0.02)


def test_branches_begin_with_the_mean_of_what_is_masked_and_lower_the_error() -> None:
    source = branched(8)
    inputs = decoder_inputs(source, ids(2, 12))
    with torch.no_grad():
        assert torch.equal(source(*inputs)[0], tiny_graph()(*decoder_inputs(tiny_graph(), ids(2, 12)))[0])
    _, learning = begun(Ast(slorb=8), source)
    name = "model.layers.0.mlp.gate_proj.weight"
    dense = tiny_graph().parameters()[name].detach()
    tensors = learning.plain.trainable
    read, write = (
        tensors[name.replace(".weight", "_side_read.weight")],
        tensors[name.replace(".weight", "_side_write.weight")],
    )
    assert (read.shape, write.shape) == ((4, 32), (24, 4))
    whole = dense * learning.kept[name] + (write @ read).detach()
    means = [tensor.unflatten(1, (4, 8)).mean(-1) for tensor in (whole, dense)]
    torch.testing.assert_close(*means)
    x = torch.ones(32)
    assert float((whole @ x - dense @ x).norm()) < 1e-4 < float((dense * ~learning.kept[name] @ x).norm())
    kept = kept_entries(train(source, OPTIONS, Rows(), learner=Ast(slorb=8)).graph.companions)
    assert not any("_side_" in each for each in kept)


@pytest.mark.parametrize("pattern", ["2:4", "50%"])
def test_it_goes_on_from_a_pattern_that_is_there(pattern: str) -> None:
    """The first mask is what is kept, what runs is the sparse model, and zeros learn."""
    fixed = run_passes(tiny_graph(), [Sparsify(pattern=pattern, method="magnitude")], Context())
    scaled = fixed.with_tensors({n: p.detach() * 1.5 for n, p in fixed.parameters().items() if "mlp" in n})
    _, learning = begun(Ast(pattern=pattern), scaled)
    given = kept_entries(scaled.companions)
    assert all(torch.equal(kept, given[name]) for name, kept in learning.kept.items())
    text = ids(2, 8)
    with torch.no_grad():
        runs, was = (each(*decoder_inputs(each, text))[0] for each in (learning.trainee.graph, scaled))
    assert torch.equal(runs, was)
    trained = train(scaled, replace(OPTIONS, lr=3e-2), Rows(), learner=Ast(pattern=pattern, refresh=1, decay=0.0))
    kept = kept_entries(trained.graph.companions)
    assert any(bool((mask & ~given[name]).any()) for name, mask in kept.items())
    assert trained.graph.companions.keys() >= scaled.companions.keys()


def test_what_it_cannot_train_is_said() -> None:
    fixed = run_passes(tiny_graph(), [Sparsify(pattern="50%", method="magnitude")], Context())
    with pytest.raises(UsageError, match=r"has another pattern of zeros than 2:4, in which ast cannot go on"):
        train(fixed, OPTIONS, Rows(), learner=Ast())
    with pytest.raises(UsageError, match=r"has no side branch, which slorb=8 trains"):
        train(tiny_graph(), OPTIONS, Rows(), learner=Ast(slorb=8))
    with pytest.raises(UsageError, match="read 24 inputs, which is no multiple of 16"):
        train(tiny_graph(), OPTIONS, Rows(), learner=Ast(pattern="8:16"))
    with pytest.raises(UsageError, match="in_backward=true is for a learner that trains all weights"):
        train(tiny_graph(), replace(OPTIONS, in_backward=True, accumulate=1, clip=0.0), Rows(), learner=Ast())
    for options, message in (({"pattern": "4:2"}, "a pattern is a share"), ({"skip": ("(",)}, "regular expressions")):
        with pytest.raises(UsageError, match=message):
            Ast(**options)
    assert Learning.pulls.__doc__
