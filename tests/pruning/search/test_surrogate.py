"""The surrogate: exact where genes add up, within the budget, never further than its reach."""

import itertools

import pytest

from graphprune.pruning.search.evolution import Genes, Space
from graphprune.pruning.search.surrogate import measure_alone, proposals, propose

PRICES = (3, 2, 4, 3)
SPACE = Space((7, 5, 7, 2), lambda genes: sum(p * g for p, g in zip(PRICES, genes, strict=True)), 30)
HERE = (3, 2, 3, 1)


def judge(genes: Genes, closely: bool) -> float:
    """A sum of falling parabolas."""
    return sum(w * (9 - g) ** 2 for w, g in zip((1.0, 0.2, 0.5, 2.0), genes, strict=True))


def test_parabolas_are_found_and_the_best_sum_is_proposed() -> None:
    curves = measure_alone(SPACE, HERE, judge, lambda done, total: None, 9)
    for gene, curve in enumerate(curves[:3]):
        for level, value in enumerate(curve):
            changed = (*HERE[:gene], level, *HERE[gene + 1 :])
            assert value == pytest.approx(judge(changed, False) - judge(HERE, False))
    every = itertools.product(*map(range, SPACE.levels))
    best = min(judge(genes, False) for genes in every if SPACE.fits(genes))
    found = propose(SPACE, HERE, curves, 9)
    assert found is not None
    assert SPACE.fits(found)
    assert judge(found, False) == pytest.approx(best)


def test_reach_is_kept_and_noise_makes_no_unit_harmful() -> None:
    curves = measure_alone(SPACE, HERE, lambda genes, closely: float(genes[0] - genes[1]), lambda done, total: None, 9)
    assert all((curve[:-1] >= curve[1:]).all() for curve in curves)
    for reach, genes in proposals(SPACE, HERE, curves, 3).items():
        assert SPACE.fits(genes)
        assert max(abs(a - b) for a, b in zip(genes, HERE, strict=True)) <= reach


def test_what_cannot_fit_is_not_proposed() -> None:
    tight = Space(SPACE.levels, SPACE.cost, 1)
    curves = measure_alone(tight, HERE, judge, lambda done, total: None, 9)
    assert propose(tight, HERE, curves, 1) is None
