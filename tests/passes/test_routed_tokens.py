"""Routed tokens: counts against those of hooks on the router, and a cut of the least used experts."""

import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze, analyze_axes
from graphprune.errors import UsageError
from graphprune.ir.plan import Plan
from graphprune.passes.importance.routed_tokens import RoutedTokens
from graphprune.passes.transforms.upcycle import Upcycle
from graphprune.pipeline.passes import Context
from graphprune.pruning.interfaces import view
from graphprune.rewriting.apply import apply
from graphprune.rewriting.masked import Masked
from tests.support import oracle
from tests.support.families import graph, model, wide

MIXTRAL = pytest.mark.xdist_group("mixtral")
IDS = torch.randint(3, 60, (6, 11), generator=torch.Generator().manual_seed(0))


def router_logits() -> list[Tensor]:
    with torch.no_grad():
        return list(model("mixtral")(IDS, output_router_logits=True).router_logits)


@MIXTRAL
def test_scores_are_the_tokens_and_the_shares_that_the_router_gives() -> None:
    experts = [g for g in analyze(graph("mixtral")).groups if g.kind == "experts"]
    scene = view(graph("mixtral"), experts, IDS.split([2, 4]))
    tokens, mass = RoutedTokens().score(scene), RoutedTokens("mass").score(scene)
    for group, logits in zip(experts, router_logits(), strict=True):
        best = logits.reshape(-1, 4).softmax(-1).topk(2)
        shares = best.values / best.values.sum(-1, keepdim=True)
        assert tokens[group.id].tolist() == torch.bincount(best.indices.flatten(), minlength=4).tolist()
        wanted = torch.zeros(4).index_add(0, best.indices.flatten(), shares.flatten())
        torch.testing.assert_close(mass[group.id], wanted, atol=1e-4, rtol=1e-4)
        assert tokens[group.id].sum() == 2 * IDS.numel()


@MIXTRAL
def test_tokens_of_an_expert_that_goes_are_given_to_others() -> None:
    source = wide("mixtral").graph
    analysis = analyze_axes(source)
    experts = [g for g in analysis.groups.groups if g.kind == "experts"]
    scores = RoutedTokens().score(view(source, experts, [IDS]))
    keep = {g.id: tuple(sorted(scores[g.id].topk(3).indices.tolist())) for g in experts}
    oracle.check_cut(source, analysis, Masked(source, analysis), Plan(keep), 1e-9)
    cut = apply(source, Plan(keep))
    left = [g for g in analyze(cut).groups if g.kind == "experts"]
    again = RoutedTokens().score(view(cut, left, [IDS]))
    assert [float(again[g.id].sum()) for g in left] == [2 * IDS.numel()] * 2


@pytest.mark.xdist_group("llama")
def test_an_upcycled_model_is_scored_and_channels_are_not() -> None:
    made = Upcycle(experts=3, top=1).run(graph("llama"), Context(seed=1))
    assert "2 MLPs became 3 experts each, 1 of them for a token" in made.notes
    assert {edit.kind for edit in made.lineage.plan.edits} == {"experts{count=3,top=1,seed=1}"}
    experts = [g for g in analyze(made).groups if g.kind == "experts"]
    scores = RoutedTokens().score(view(made, experts, [IDS]))
    assert [float(each.sum()) for each in scores.values()] == [IDS.numel()] * 2
    channels = [g for g in analyze(made).groups if g.kind == "mlp"]
    with pytest.raises(UsageError, match="which no router chooses from; take --prune experts"):
        RoutedTokens().score(view(made, channels, [IDS]))
    with pytest.raises(UsageError, match="needs calibration text"):
        RoutedTokens().score(view(made, experts))
    one = Upcycle(scope=r"layers\.1\.").run(graph("llama"), Context())
    assert len([g for g in analyze(one).groups if g.kind == "experts"]) == 1
    with pytest.raises(UsageError, match="no dense MLP here"):
        Upcycle(scope="nothing").run(graph("llama"), Context())
    for wrong in ({"experts": 2, "top": 3}, {"scope": "("}):
        with pytest.raises(UsageError, match="upcycle: "):
            Upcycle(**wrong)  # type: ignore[arg-type]
