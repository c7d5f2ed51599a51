"""Rates of layers: repaired to their mean whatever was proposed, searched with the best kept."""

import random
from collections.abc import Sequence

import pytest

from graphprune.pruning.search.rates import Breeding, Judged, Mean, Rates, Schedule, first_rates, repair, search_rates

MEAN = Mean(0.7, (1.0, 2.0, 1.0, 3.0, 1.0, 1.0))
SMALL = Schedule(population=8, generations=6, children=6)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.95])
def test_whatever_was_proposed_comes_to_the_mean_within_limits(share: float) -> None:
    rng = random.Random(share)
    for _ in range(200):
        mean = Mean(share, tuple(rng.uniform(0.5, 5) for _ in range(rng.randint(2, 40))))
        raw = [rng.choice([rng.uniform(-3, 3), 0.0, 1e9, -1e9, share]) for _ in mean.sizes]
        found = repair(raw, mean)
        assert abs(mean.of(found) - share) <= 1e-6
        assert all(mean.least - 1e-9 <= rate <= mean.most + 1e-9 for rate in found)
        assert sorted(found) == [rate for _, rate in sorted(zip(raw, found, strict=True))], "their order stays"


def test_what_fits_stays_as_it_is() -> None:
    rates = repair((0.6, 0.7, 0.8, 0.7, 0.7, 0.7), Mean(0.7, (1.0,) * 6))
    assert rates == pytest.approx((0.6, 0.7, 0.8, 0.7, 0.7, 0.7))


def test_a_population_begins_with_even_rates_ramps_and_protected_ends() -> None:
    found = first_rates(MEAN, 10, random.Random(0))
    assert len(found) == 10
    assert found[0] == pytest.approx((0.7,) * 6)
    assert list(found[1]) == sorted(found[1])
    assert list(found[2]) == sorted(found[2], reverse=True)
    assert min(found[3][0], found[3][1], found[3][-1]) > max(found[3][2:5])
    assert len(set(found)) == 10


def badness(rates: Rates) -> float:
    """The fourth layer is worth nothing, the first much."""
    return sum(weight * (1 - rate) ** 2 for weight, rate in zip((9, 1, 1, 0, 1, 1), rates, strict=True))


def search(seed: int, propose: object = None, schedule: Schedule = SMALL) -> tuple[Judged, dict[str, int], list[float]]:
    chance, best = random.Random(seed), list[float]()

    def judge(rates: Sequence[Rates], _: int) -> Sequence[float]:
        values = [badness(each) for each in rates]
        best.append(min([*values, *best[-1:]]))
        return values

    found, counts = search_rates(judge, propose or Breeding(chance), MEAN, schedule, chance)  # type: ignore[arg-type]
    return found, dict(counts), best


def test_a_layer_that_is_worth_nothing_gives_up_most() -> None:
    found, _, best = search(1, schedule=Schedule(16, 20, 16))
    assert best == sorted(best, reverse=True)
    assert found.value == best[-1] < 0.7 * badness((0.7,) * 6)
    assert found.rates[3] == min(found.rates) < 0.5
    assert found.rates[0] > 0.8


def test_the_same_seed_gives_the_same_search() -> None:
    assert search(5) == search(5)
    assert search(5) != search(6)


def test_in_the_place_of_an_answer_that_cannot_be_read_a_child_is_bred() -> None:
    breed = Breeding(random.Random(3))

    def sometimes(known: Sequence[Judged], mean: Mean, count: int) -> Sequence[Rates | None]:
        return [None if number % 3 == 0 else breed(known, mean, 1)[0] for number in range(count)]

    found, counts, best = search(2, sometimes)
    assert counts["unread"] == 2 * SMALL.generations
    assert counts["judged"] > SMALL.population
    assert found.value == best[-1] < badness((0.7,) * 6)
