"""Stability allocation: the indicators by hand, the module that fluctuates most gives up most, equal parts are even."""

import statistics
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from graphprune.budget.budgets import Budget
from graphprune.errors import UsageError
from graphprune.passes.allocation.stability import Stability, between_parts, between_units, places
from graphprune.passes.allocation.uniform import Uniform
from graphprune.passes.importance.fused import Fused
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.pruning.interfaces import Importance, Scene, view
from graphprune.pruning.rounds import Request, prune, score, score_parts
from graphprune.spec import parse_spec
from tests.support.families import families, graph

KINDS = ("mlp", "attention")
_rows = torch.randint(3, 60, (8, 12), generator=torch.Generator().manual_seed(0))
BATCHES = tuple(_rows.split(2))


def scene_of(name: str, share: float = 0.8) -> Scene:
    source = graph(name)
    made = view(source, None, BATCHES, budget=Budget(int(share * source.parameter_count())))
    return replace(made, candidates=tuple(g for g in made.candidates if g.kind in KINDS))


def with_parts(scene: Scene, deviations: Mapping[str, float]) -> Scene:
    """Parts of a scene whose sums deviate by these, over a mean of 1 a unit."""
    shape = torch.tensor([1.0, -1.0, 1.0, -1.0]).double()
    parts = {g.id: (1 + deviations[g.id] * shape)[:, None].expand(4, g.units).contiguous() for g in scene.candidates}
    return replace(scene, parts=parts)


def test_indicators_are_what_they_are_said_to_be() -> None:
    scores = torch.rand(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sums, means = scores.sum(1).tolist(), scores.mean(0).tolist()
    assert between_parts(scores) == pytest.approx(statistics.stdev(sums) / statistics.mean(sums), rel=1e-12)
    assert between_units(scores) == pytest.approx(statistics.stdev(means) / statistics.mean(means), rel=1e-12)
    assert between_parts(scores[:1]) == between_parts(scores * 0) == 0
    assert between_parts(torch.rand(1, 9).expand(6, 9)) == 0, "to the bit"


def test_places_are_ranks_and_equal_ones_share_theirs() -> None:
    assert places([0.3, 0.1, 0.2]) == [1.0, -1.0, 0.0]
    assert places([0.1, 0.2, 0.1, 0.3]) == pytest.approx([-2 / 3, 1 / 3, -2 / 3, 1.0])
    assert places([5.0, 5.0, 5.0]) == [0.0, 0.0, 0.0]
    assert places([2.0]) == [0.0]


@pytest.mark.xdist_group("llama")
@pytest.mark.parametrize("per", ["group", "layer"])
def test_what_fluctuates_most_gives_up_most(per: str) -> None:
    scene = scene_of("llama", 0.7)
    scores = {g.id: torch.arange(g.units).float() for g in scene.candidates}
    mlp = [g for g in scene.candidates if g.kind == "mlp"]
    deviations = {g.id: 0.01 for g in scene.candidates} | {mlp[1].id: 0.4}
    allocation = Stability(indicator="asi", amplitude=0.5, per=per)  # type: ignore[arg-type]
    counts = allocation.keep(with_parts(scene, deviations), scores).counts
    assert counts[mlp[1].id] < counts[mlp[0].id]


@pytest.mark.xdist_group("llama")
def test_the_indicator_by_importance_spares_what_matters() -> None:
    scene = scene_of("llama", 0.7)
    mlp = [g for g in scene.candidates if g.kind == "mlp"]
    made = with_parts(scene, {g.id: 0.1 for g in scene.candidates})
    made = replace(made, parts={**made.parts, mlp[0].id: 9 * made.parts[mlp[0].id]})
    by_importance, alone = (Stability(indicator=i).rates(made) for i in ("asi-by-importance", "asi"))  # type: ignore[arg-type]
    assert by_importance[mlp[0].id] < by_importance[mlp[1].id]
    assert alone[mlp[0].id] == alone[mlp[1].id]
    rates = Stability(amplitude=0.3).rates(made)
    assert min(rates.values()) == pytest.approx(0.7)
    assert max(rates.values()) <= 1.3


@pytest.mark.parametrize("name", families(("llama", "gpt2", "mixtral")))
@pytest.mark.parametrize("indicator", ["asi", "asi-by-importance"])
def test_equal_parts_are_cut_as_uniform_does(name: str, indicator: str) -> None:
    """Each part is the same text, so nothing fluctuates."""
    told: list[str] = []
    scene = replace(scene_of(name), batches=(_rows[:2],) * 4, note=told.append)
    request = Request(scene.budget, Fused(parts=4), Stability(indicator=indicator, parts=4), KINDS)  # type: ignore[arg-type]
    scene = replace(scene, parts=score_parts(scene, request))
    scores = score(request.importance, scene)
    assert request.allocation.keep(scene, scores).counts == Uniform().keep(scene, scores).counts
    assert "the same share" in told[0]


@pytest.mark.parametrize("name", families(("llama", "gpt2", "qwen3", "mixtral")))
@pytest.mark.parametrize("importance", [Fused(parts=4), Magnitude()], ids=str)
def test_the_target_is_met_with_any_importance(name: str, importance: Importance) -> None:
    source = graph(name)
    target = int(0.8 * source.parameter_count())
    found = prune(source, Request(Budget(target), importance, Stability(parts=4), KINDS, steps=2), BATCHES)
    assert target * 0.96 < found.graph.parameter_count() <= target
    again = prune(source, Request(Budget(target), importance, Stability(parts=4), KINDS, steps=2), BATCHES)
    assert again.plan == found.plan


@pytest.mark.xdist_group("llama")
def test_parts_are_measured_once_where_the_score_is_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    source, scene, whole = graph("llama"), scene_of("llama"), Fused.score_parts
    for parts, times in ((4, 1), (2, 2)):
        calls: list[int] = []

        def counted(self: Fused, scene: Scene, count: int, calls: list[int] = calls) -> dict[str, Tensor]:
            calls.append(count)
            return whole(self, scene, count)

        with monkeypatch.context() as patch:
            patch.setattr(Fused, "score_parts", counted)
            prune(source, Request(scene.budget, Fused(parts=4), Stability(parts=parts), KINDS), BATCHES)
        assert len(calls) == times


@pytest.mark.xdist_group("llama")
def test_the_mean_of_parts_is_the_score() -> None:
    scene = scene_of("llama")
    request = Request(scene.budget, Fused(parts=4), Stability(parts=4), KINDS)
    seen = score(request.importance, replace(scene, parts=score_parts(scene, request)))
    alone = request.importance.score(scene)
    assert all(torch.equal(seen[id], alone[id]) for id in alone)


def test_bad_options_are_told() -> None:
    with pytest.raises(UsageError, match="amplitude of stability is"):
        parse_spec("allocation", "stability{amplitude=1}")
    with pytest.raises(UsageError, match="indicator"):
        parse_spec("allocation", "stability{indicator=variance}")
    with pytest.raises(UsageError, match="parts of stability is 2 or more, not 1"):
        parse_spec("allocation", "stability{parts=1}")
    with pytest.raises(UsageError, match="give --data"):
        Stability().keep(replace(scene_of("llama"), batches=()), {})
