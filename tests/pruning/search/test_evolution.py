"""Evolution: within the budget, no worse than the start, the best of a space that can be counted."""

import itertools
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.pruning.search.evolution import Effort, Genes, Space, evolve, fill, mutate

EFFORT = Effort(generations=30, offspring=10, close=3, parents=3)


def unheard(_done: int, _total: int) -> None:
    pass


def space_of(prices: list[int], levels: list[int], target: int) -> Space:
    return Space(tuple(levels), lambda genes: sum(p * g for p, g in zip(prices, genes, strict=True)), target)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_offspring_fit_and_leave_no_room(seed: int) -> None:
    chance = Random(seed)
    count = chance.randint(1, 6)
    prices, levels = [chance.randint(1, 9) for _ in range(count)], [chance.randint(1, 5) for _ in range(count)]
    space = space_of(prices, levels, chance.randint(0, 60))
    genes = fill(space, mutate(space, tuple(chance.randrange(n) for n in levels), chance), chance)
    assert space.fits(genes)
    for i, level in enumerate(genes):
        assert 0 <= level < levels[i]
        more = tuple(g + (k == i) for k, g in enumerate(genes))
        assert level + 1 == levels[i] or not space.fits(more)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_of_a_small_space_is_found(seed: int) -> None:
    chance = Random(seed)
    weights = [chance.random() for _ in range(5)]
    space = space_of([3, 2, 4, 3, 2], [5] * 5, 30)

    def judge(genes: Genes, closely: bool) -> float:
        return sum(w * (4 - g) ** 2 for w, g in zip(weights, genes, strict=True))

    every = (genes for genes in itertools.product(range(5), repeat=5) if space.fits(genes))
    best = min(judge(genes, True) for genes in every)
    found = evolve(space, [(2, 2, 2, 2, 2)], judge, EFFORT, chance, unheard)
    assert found.value == judge(found.genes, True) == pytest.approx(best)


def test_the_same_chance_gives_the_same_and_nothing_is_judged_twice() -> None:
    space, asked = space_of([1] * 6, [4] * 6, 9), list[tuple[Genes, bool]]()

    def judge(genes: Genes, closely: bool) -> float:
        asked.append((genes, closely))
        return abs(genes[0] - 3) + genes[1] / 10

    one = evolve(space, [(1,) * 6], judge, EFFORT, Random(3), unheard)
    first, asked[:] = list(asked), []
    assert evolve(space, [(1,) * 6], judge, EFFORT, Random(3), unheard) == one
    assert first == asked
    assert len(set(asked)) == len(asked)


def test_without_generations_the_best_start_is_taken() -> None:
    space = space_of([1, 1], [4, 4], 4)
    found = evolve(
        space, [(3, 1), (1, 3)], lambda genes, closely: float(genes[0]), Effort(0, 0, 0, 1), Random(0), unheard
    )
    assert found.genes == (1, 3)


def test_a_space_without_choices_ends() -> None:
    space = space_of([1, 1], [1, 1], 4)
    assert evolve(space, [(0, 0)], lambda genes, closely: 1.0, EFFORT, Random(0), unheard).genes == (0, 0)
