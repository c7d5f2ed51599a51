"""Bundles: neighbours in the order of their scores, heads one by one, layers whole."""

from dataclasses import replace

import numpy
import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Group
from graphprune.pruning.blocks import find_blocks
from graphprune.pruning.policy.bundles import smallest_fit, tie_up
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")


def groups(*kinds: str) -> tuple[Group, ...]:
    return tuple(group for group in analyze(tiny_graph()).prunable() if group.kind in kinds)


def test_channels_are_tied_up_by_rank_and_heads_are_not() -> None:
    candidates = groups("mlp", "attention")
    scores = {group.id: torch.rand(group.units) for group in candidates}
    bundles = tie_up(candidates, scores, 5)
    assert len(bundles) == 2 * (4 + 5)
    assert sorted(set(bundles.sizes.tolist())) == [1, 4, 5]
    for group, run in zip(candidates, bundles.runs, strict=True):
        owner = bundles.owner[group.id]
        assert set(owner.tolist()) == set(range(run.place.start, run.place.stop))
        ranked = scores[group.id][torch.argsort(owner, stable=True)]
        if group.kind == "mlp":
            assert ranked.view(-1)[:5].min() > ranked[5:].max()
        assert (torch.diff(owner[torch.argsort(-scores[group.id])]) >= 0).all()


def test_factors_are_those_of_the_bundles() -> None:
    candidates = groups("mlp")
    bundles = tie_up(candidates, {g.id: torch.arange(g.units).float() for g in candidates}, 8)
    masks = numpy.zeros((2, len(bundles)), dtype=numpy.bool_)
    masks[1, 0] = True
    found = bundles.factors(masks, torch.zeros(1, dtype=torch.float64))
    first = found[candidates[0].id]
    assert first.dtype == torch.float64
    assert first.sum(1).tolist() == [0, 8]
    assert first[1, -8:].tolist() == [1] * 8, "the best are in the first bundle"


def test_the_branches_of_a_layer_are_one_and_may_all_go() -> None:
    analysis = analyze(tiny_graph())
    for kind, count in (("blocks", 4), ("layers", 2)):
        bundles = tie_up(find_blocks(analysis, [kind]), {}, 8)
        assert (len(bundles), bundles.runs) == (count, ())
        nothing = numpy.zeros((1, count), dtype=numpy.bool_)
        assert not bundles.complete(nothing, numpy.ones(count)).any()


def test_every_group_keeps_its_least_the_likeliest_first() -> None:
    heads = replace(groups("attention")[0], least=2)
    bundles = tie_up(
        [heads, groups("mlp")[0]], {g.id: torch.arange(g.units).float() for g in groups("mlp", "attention")}, 8
    )
    shares = numpy.array([0.1, 0.4, 0.2, 0.3, 0.5, 0.6, 0.1])
    masks = numpy.zeros((2, 7), dtype=numpy.bool_)
    masks[1, :3] = True
    found = bundles.complete(masks, shares)
    assert found.astype(int).tolist() == [[0, 1, 0, 1, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0]]
    assert not masks[0].any(), "the masks that were drawn stay as they are"


def test_the_size_that_fits_is_the_smallest() -> None:
    candidates = groups("mlp", "attention")  # 2 x 24 channels, 2 x 4 heads
    assert smallest_fit(candidates, 56) == 1
    assert smallest_fit(candidates, 55) == 2
    assert smallest_fit(candidates, 14) == 8
    assert smallest_fit(candidates, 10) == 24
    assert smallest_fit(candidates, 9) is None
