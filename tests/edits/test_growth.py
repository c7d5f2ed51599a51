"""Growth: what the model knew it computes as before, and what is new can be cut, counted, replayed and learned."""

import random

import pytest
import torch

from graphprune.analysis.analyse import analyze, analyze_axes
from graphprune.edits.editing import edited
from graphprune.edits.growth import Grow, grow
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Edit, Plan, plan_of
from graphprune.ir.verification import verify
from graphprune.rewriting.apply import apply
from graphprune.rewriting.masked import Masked
from graphprune.running.loss import next_token_loss
from tests.support import oracle
from tests.support.families import families, graph, wide

KIND = "grow{units=5,seed=0}"
LLAMA = pytest.mark.xdist_group("llama")


def groups_of(source: Graph, kind: str) -> list[str]:
    return [group.id for group in analyze(source).groups if group.kind == kind]


# Gated; fused and gated; biases, matrices turned and a tied head.
@pytest.mark.parametrize("name", families(("llama", "phi3", "gpt2")))
def test_logits_of_what_was_known_stay_and_what_is_new_is_cut_as_the_rest(name: str) -> None:
    source = wide(name).graph
    printed, words = str(source), int(source.results["logits"].meta["value"].shape[-1])
    edits = [Edit(KIND, id) for kind in ("mlp", "vocabulary") for id in groups_of(source, kind)]
    whole = edited(source, edits)
    verify(whole)
    for setting in oracle.SETTINGS:
        inputs = oracle.example(source, setting)
        with torch.no_grad():
            for before, after in zip(source(*inputs), whole(*inputs), strict=True):
                known = after[..., :words] if after.shape[-1] == words + 5 else after
                assert float((before - known).abs().max()) < 1e-9
    assert str(source) == printed
    costs = analyze(whole)
    assert costs.costs.parameters(costs.sizes()) == whole.parameter_count()
    old = analyze(source).by_id()
    more = {id for id, group in costs.by_id().items() if group.units == old[id].units + 5}
    assert more == {edit.of for edit in edits}
    plan = plan_of(Plan(edits=tuple(edits)).to_data())
    again = apply(source, plan)
    assert all(torch.equal(tensor, whole.tensors()[n]) for n, tensor in again.tensors().items())
    rng, analysis = random.Random(0), analyze_axes(whole)
    keep = {group.id: oracle.random_keep(group, rng) for group in analysis.groups.prunable()}
    oracle.check_cut(whole, analysis, Masked(whole, analysis), Plan(keep, (), "exact"), 1e-9)
    back = {edit.of: tuple(range(old[edit.of].units)) for edit in edits}
    cut = apply(whole, Plan(back))
    assert all(torch.equal(tensor, source.tensors()[n]) for n, tensor in cut.tensors().items())


@LLAMA
def test_new_channels_learn() -> None:
    (first, *_) = groups_of(graph("llama"), "mlp")
    made = grow(graph("llama"), [first], Grow(3, 1))
    weight = made.parameters()["model.layers.0.mlp.down_proj.weight"]
    assert tuple(weight.shape) == (32, 47)
    assert not weight[:, 44:].any()
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(next_token_loss(made, ids), weight)
    assert bool(gradient[:, 44:].any())
    up = made.tensors()["model.layers.0.mlp.up_proj.weight"]
    assert all(any(torch.equal(row, known) for known in up[:44]) for row in up[44:])


@LLAMA
def test_new_tokens_are_the_mean_of_all_and_what_cannot_grow_is_named() -> None:
    source = graph("llama")
    (table,) = groups_of(source, "vocabulary")
    made = grow(source, [table], Grow(2, 0))
    rows = made.tensors()["model.embed_tokens.weight"]
    torch.testing.assert_close(rows[61:], rows[:61].mean(0).expand(2, -1))
    with pytest.raises(PlanError, match=r"no channels can be appended to model\.embed_tokens"):
        grow(source, ["model.embed_tokens.weight:1"], Grow(1, 0))
    with pytest.raises(PlanError, match="is no group of this model"):
        grow(source, ["nothing:0"], Grow(1, 0))
    with pytest.raises(PlanError, match="cannot be read: units of grow is 1 or more"):
        edited(source, [Edit("grow{units=0,seed=0}", table)])
