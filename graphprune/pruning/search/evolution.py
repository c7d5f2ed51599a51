"""Evolution: the best levels found within a budget, by changing good ones a little and keeping what is better."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

Genes = tuple[int, ...]  # the level of each width

_TWICE = 0.3  # of the changes are of two pairs
_CROSSED = 0.25  # of the offspring have two parents
_TRIES = 50  # for an offspring that has not been seen


@dataclass(frozen=True, eq=False)
class Space:
    """The genes there are: each has `levels[i]` levels, the last its full width; `cost` never falls with a level."""

    levels: tuple[int, ...]
    cost: Callable[[Genes], int]
    target: int

    def fits(self, genes: Genes) -> bool:
        return self.cost(genes) <= self.target


@dataclass(frozen=True)
class Effort:
    """How long is searched: generations, the offspring of each, how many of them are looked at closely, and stay.

    `glance` is the share of the text that a glance is on.
    """

    generations: int
    offspring: int
    close: int
    parents: int
    glance: float = 0.5


class Judge(Protocol):
    """How bad genes are: at a glance, or closely, on more text."""

    def __call__(self, genes: Genes, closely: bool, /) -> float: ...


Told = Callable[[int, int], None]  # done, of how many


@dataclass(frozen=True)
class Found:
    """Genes and how bad they are, closely looked at."""

    value: float
    genes: Genes


def evolve(space: Space, starts: Sequence[Genes], judge: Judge, effort: Effort, chance: Random, told: Told) -> Found:
    """The best genes found within the budget; the same for the same chance and judge.

    Every generation makes offspring of the parents, looks at all of them at a glance, and closely at those that seem
    best; the best of these and of the parents are the next parents. So the result is no worse than the best start.
    """
    seen = set(starts := list(dict.fromkeys(fill(space, genes, chance) for genes in starts)))
    total, done = effort.generations * effort.offspring, 0
    parents = sorted((Found(judge(genes, True), genes) for genes in starts), key=by_value)[: effort.parents]
    for _ in range(effort.generations):
        told(done, total)
        born: list[Genes] = []
        for _ in range(effort.offspring):
            child = breed(space, [parent.genes for parent in parents], seen, chance)
            if child is not None:
                seen.add(child)
                born.append(child)
        glanced = sorted((judge(child, False), place) for place, child in enumerate(born))
        close = [Found(judge(born[place], True), born[place]) for _, place in glanced[: effort.close]]
        parents = sorted([*parents, *close], key=by_value)[: effort.parents]
        done += effort.offspring
    told(total, total)
    return parents[0]


def by_value(found: Found) -> float:
    return found.value


def breed(space: Space, parents: Sequence[Genes], seen: set[Genes], chance: Random) -> Genes | None:
    """An offspring that has not been seen; None where there seems to be none."""
    for _ in range(_TRIES):
        child = chance.choice(parents)
        if len(parents) > 1 and chance.random() < _CROSSED:
            other = chance.choice(parents)
            child = tuple(chance.choice(pair) for pair in zip(child, other, strict=True))
        child = fill(space, mutate(space, child, chance), chance)
        if child not in seen:
            return child
    return None


def mutate(space: Space, genes: Genes, chance: Random) -> Genes:
    """One gene, or two, a level up, and as many others a level down; what is at its end stays."""
    changed = list(genes)
    for _ in range(2 if chance.random() < _TWICE else 1):
        up = [i for i, level in enumerate(changed) if level + 1 < space.levels[i]]
        down = [i for i, level in enumerate(changed) if level > 0]
        if up and down:
            changed[chance.choice(up)] += 1
            changed[chance.choice(down)] -= 1
    return tuple(changed)


def fill(space: Space, genes: Genes, chance: Random) -> Genes:
    """The genes within the budget, and as full as it allows: levels fall, then rise in turns, at random."""
    changed = list(genes)
    while not space.fits(tuple(changed)):
        down = [i for i, level in enumerate(changed) if level > 0]
        if not down:
            break
        changed[chance.choice(down)] -= 1
    order = list(range(len(changed)))
    chance.shuffle(order)
    while order:  # one level each a turn, so that the room of a block that went is shared
        order = [i for i in order if rise(space, changed, i)]
    return tuple(changed)


def rise(space: Space, genes: list[int], gene: int) -> bool:
    """Raise a gene by a level, where there is one and it fits; say so."""
    if genes[gene] + 1 >= space.levels[gene]:
        return False
    genes[gene] += 1
    fits = space.fits(tuple(genes))
    genes[gene] -= not fits
    return fits
