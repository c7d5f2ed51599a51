"""Rates: the share of its units that each layer keeps, how a set of them meets its mean, and how good ones are bred."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, final

Rates = tuple[float, ...]

_ROUNDS = 60  # of bisection: the mean is met to 1e-12
_ROOM = 0.4  # that a layer may keep more or less than the mean
_LEAST = 0.05
_CONTENDERS = 3  # of which the best is a parent
_SPREAD, _CHANGED = 0.1, 0.2  # of a mutation: how far rates move, and how many do


@dataclass(frozen=True)
class Mean:
    """What rates must come to: `share` on average, each layer counted by its `sizes`."""

    share: float
    sizes: tuple[float, ...]

    @property
    def least(self) -> float:
        return max(_LEAST, self.share - _ROOM)

    @property
    def most(self) -> float:
        return min(1.0, self.share + _ROOM)

    def of(self, rates: Rates) -> float:
        return sum(rate * size for rate, size in zip(rates, self.sizes, strict=True)) / sum(self.sizes)


def repair(raw: Sequence[float], mean: Mean) -> Rates:
    """Rates within their limits that come to the mean: all are moved by one amount, found by bisection, and clipped."""

    def moved(by: float) -> Rates:
        return tuple(min(mean.most, max(mean.least, rate + by)) for rate in raw)

    low, high = mean.least - max(raw), mean.most - min(raw)
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if mean.of(moved(middle)) < mean.share else (low, middle)
    return moved((low + high) / 2)


def first_rates(mean: Mean, size: int, chance: Random) -> list[Rates]:
    """A population to begin with: even rates, ramps, protected ends, and others at random."""
    layers = len(mean.sizes)
    places = [place / max(1, layers - 1) - 0.5 for place in range(layers)]
    ends = [0.3 if place < 2 or place == layers - 1 else 0.0 for place in range(layers)]
    known = [[0.0] * layers, [0.4 * p for p in places], [-0.4 * p for p in places], ends]
    others = ([chance.gauss(0, 2 * _SPREAD) for _ in range(layers)] for _ in range(max(0, size - len(known))))
    return [repair([mean.share + shift for shift in shifts], mean) for shifts in [*known, *others]][:size]


@dataclass(frozen=True)
class Judged:
    """Rates and how bad the model is that they make."""

    value: float
    rates: Rates


class Proposer(Protocol):
    """Who makes new rates of those that are known, the best first; what does not fit the mean is repaired later.

    None stands for an answer that could not be read.
    """

    def __call__(self, known: Sequence[Judged], mean: Mean, count: int, /) -> Sequence[Rates | None]: ...


@final
@dataclass(frozen=True, eq=False)
class Breeding:
    """The genetic proposer: half of the children mix two parents, and all of the others change one a little."""

    chance: Random

    def __call__(self, known: Sequence[Judged], mean: Mean, count: int, /) -> Sequence[Rates | None]:
        return [self.cross(known) if number % 2 else self.change(known) for number in range(count)]

    def parent(self, known: Sequence[Judged]) -> Rates:
        return min((self.chance.choice(known) for _ in range(_CONTENDERS)), key=by_value).rates

    def cross(self, known: Sequence[Judged]) -> Rates:
        """Between two parents, or of the one but for a stretch of the other."""
        one, other = self.parent(known), self.parent(known)
        if self.chance.random() < 0.5:
            part = self.chance.random()
            return tuple(part * a + (1 - part) * b for a, b in zip(one, other, strict=True))
        start, end = sorted(self.chance.sample(range(len(one) + 1), 2))
        return (*one[:start], *other[start:end], *one[end:])

    def change(self, known: Sequence[Judged]) -> Rates:
        """A fifth of the layers, one at least, keep more or less."""
        rates = list(self.parent(known))
        for place in self.chance.sample(range(len(rates)), max(1, round(_CHANGED * len(rates)))):
            rates[place] += self.chance.gauss(0, _SPREAD)
        return tuple(rates)


def by_value(judged: Judged) -> float:
    return judged.value


@dataclass(frozen=True)
class Schedule:
    """How long is searched: how many are kept, for how many generations, and the children of each."""

    population: int
    generations: int
    children: int


def search_rates(
    judge: "JudgeRates", propose: Proposer, mean: Mean, schedule: Schedule, chance: Random
) -> tuple[Judged, Mapping[str, int]]:
    """The best rates found, and what was counted: `judged`, and `unread`, answers in whose place a child was bred.

    Every generation the best of parents and children stay, so no generation is worse than the one before.
    """
    breed, counts = Breeding(chance), {"judged": 0, "unread": 0}
    born = first_rates(mean, schedule.population, chance)
    known = list[Judged]()
    for generation in range(schedule.generations + 1):
        if generation:
            answers = propose(known, mean, schedule.children)
            counts["unread"] += sum(answer is None for answer in answers)
            bred = [breed(known, mean, 1)[0] if answer is None else answer for answer in answers]
            born = [repair(each, mean) for each in bred if each is not None]
        fresh = [rates for rates in dict.fromkeys(born) if rates not in {each.rates for each in known}]
        counts["judged"] += len(fresh)
        values = judge(fresh, generation)
        known = sorted([*known, *map(Judged, values, fresh)], key=by_value)[: schedule.population]
    return known[0], counts


class JudgeRates(Protocol):
    """How bad the models are that rates make; the number of the generation is for progress."""

    def __call__(self, rates: Sequence[Rates], generation: int, /) -> Sequence[float]: ...
