"""Random programs over axes with a hidden concrete structure, which the algebra has to learn."""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy

from graphprune.analysis.owners import owners
from graphprune.axes.algebra import Algebra, Axis
from graphprune.ir.types import Size

Label = frozenset[tuple[str, int]]  # what an index really is: its unit of each hidden factor
Labels = tuple[Label, ...]
Make = Callable[[Algebra], Axis]


def atom(name: str, size: int) -> Labels:
    return tuple(frozenset({(name, unit)}) for unit in range(size))


def product_labels(*factors: Labels) -> Labels:
    result: Labels = (frozenset(),)
    for factor in factors:
        result = tuple(one | other for one in result for other in factor)
    return result


def concat_labels(*parts: Labels) -> Labels:
    return tuple(label for part in parts for label in part)


A, B, C, D, E = (atom(name, size) for name, size in zip("ABCDE", (2, 3, 4, 2, 3), strict=True))
# Shapes that models are made of: heads, fused projections, rotary halves, packed heads, all of them together.
HIDDEN: dict[str, Labels] = {
    "atom": C,
    "pair": product_labels(A, B),
    "grouped heads": product_labels(A, B, C),
    "fused": concat_labels(product_labels(A, B), A, product_labels(B, A)),
    "rotary": product_labels(A, concat_labels(C, C)),
    "partial rotary": product_labels(B, concat_labels(A, A, E)),
    "packed": product_labels(B, concat_labels(A, A, E, A, A, E, C)),
    "fused heads": concat_labels(product_labels(A, D, C), product_labels(A, C), product_labels(A, C)),
    "split rows": product_labels(concat_labels(A, B), C),
}


@dataclass(frozen=True)
class Step:
    """One thing to learn about named axes: `make` new ones, or that two are the same."""

    reads: tuple[str, ...]
    makes: tuple[str, ...]
    run: Callable[[Algebra, dict[str, Axis]], bool]


def opaque(name: str, labels: Labels) -> Step:
    def run(algebra: Algebra, axes: dict[str, Axis]) -> bool:
        axes[name] = algebra.fresh(len(labels))
        return True

    return Step((), (name,), run)


def joined(kind: str, name: str, parts: tuple[str, ...]) -> Step:
    def run(algebra: Algebra, axes: dict[str, Axis]) -> bool:
        axes[name] = getattr(algebra, kind)([axes[part] for part in parts])
        return True

    return Step(parts, (name,), run)


def taken_apart(kind: str, axis: str, at: int, names: tuple[str, str]) -> Step:
    def run(algebra: Algebra, axes: dict[str, Axis]) -> bool:
        pair = getattr(algebra, kind)(axes[axis], at)
        if pair is not None:
            axes.update(zip(names, pair, strict=True))
        return pair is not None

    return Step((axis,), names, run)


def same(one: str, other: str) -> Step:
    return Step((one, other), (), lambda algebra, axes: algebra.unify(axes[one], axes[other]))


def factorings(labels: Labels) -> list[tuple[int, Labels, Labels]]:
    """Every way to see these labels as outer times inner."""
    found = []
    for outer in range(2, len(labels)):
        inner = len(labels) // outer
        if len(labels) % outer:
            continue
        rows = [labels[k * inner : (k + 1) * inner] for k in range(outer)]
        common = [frozenset.intersection(*row) for row in rows]
        rests = [tuple(label - common[k] for label in row) for k, row in enumerate(rows)]
        fits = all(rest == rests[0] for rest in rests) and len(set(common)) == outer and frozenset() not in common
        if fits and inner > 1:
            found.append((outer, tuple(common), rests[0]))
    return found


def boundaries(labels: Labels) -> list[int]:
    """Where a concatenation may be split: between parts whose hidden factors differ or start anew."""
    return [k for k in range(1, len(labels)) if all(u == 0 for _, u in labels[k]) and starts_anew(labels, k)]


def starts_anew(labels: Labels, at: int) -> bool:
    """Every part is a whole: each hidden factor on either side runs through all of its units."""
    sizes = {"A": 2, "B": 3, "C": 4, "D": 2, "E": 3}
    return all(
        {u for label in side for n, u in label if n == name} in (set(), set(range(size)))
        for side in (labels[:at], labels[at:])
        for name, size in sizes.items()
    )


def program(rng: random.Random) -> list[Step]:
    """A random set of true statements about axes, all consistent with the hidden structure."""
    known: dict[str, Labels] = {}
    steps: list[Step] = []

    def add(step: Step, *labels: Labels) -> None:
        steps.append(step)
        known.update(zip(step.makes, labels, strict=True))

    for name in rng.sample(sorted(HIDDEN), 2):
        for copy in range(rng.randint(1, 3)):
            add(opaque(f"{name} {copy}", HIDDEN[name]), HIDDEN[name])
    for number in range(rng.randint(2, 8)):
        name = rng.choice(sorted(known))
        labels, names = known[name], (f"x{number}", f"y{number}")
        cuts, pairs = boundaries(labels), factorings(labels)
        if cuts and (not pairs or rng.random() < 0.5):
            at = rng.choice(cuts)
            add(taken_apart("split", name, at, names), labels[:at], labels[at:])
        elif pairs:
            outer, one, other = rng.choice(pairs)
            add(taken_apart("factor", name, outer, names), one, other)
            if rng.random() < 0.5:
                add(joined("product", f"z{number}", names), labels)
    pairs_of_names = itertools.combinations(sorted(known), 2)
    return steps + [same(*pair) for pair in pairs_of_names if known[pair[0]] == known[pair[1]] and rng.random() < 0.7]


def run(steps: Sequence[Step]) -> tuple[Algebra, dict[str, Axis]]:
    algebra, axes = Algebra(), dict[str, Axis]()
    for step in steps:
        assert step.run(algebra, axes)
    return algebra, axes


def shuffled(steps: Sequence[Step], rng: random.Random) -> list[Step]:
    """Another order in which every axis is still made before it is read."""
    waiting, done, result = list(steps), set[str](), list[Step]()
    while waiting:
        ready = [step for step in waiting if set(step.reads) <= done]
        step = rng.choice(ready)
        waiting.remove(step)
        done.update(step.makes)
        result.append(step)
    return result


def structure(algebra: Algebra, axes: dict[str, Axis]) -> list[str]:
    """What is known, up to the names of atoms: for each atom the indices that its units own along every axis."""
    table: dict[Axis, dict[str, tuple[int, ...]]] = {}
    for name, axis in sorted(axes.items()):
        for found, owner in owners(algebra, axis, {}).items():
            table.setdefault(found, {})[name] = tuple(int(u) for u in owner)
    return sorted(str(sorted(entry.items())) for entry in table.values())


def partition(algebra: Algebra, axes: dict[str, Axis]) -> set[frozenset[str]]:
    return {frozenset(n for n, a in axes.items() if algebra.find(a) == algebra.find(axis)) for axis in axes.values()}


def evaluated(algebra: Algebra, axis: Axis) -> Size:
    form = algebra.form(axis)
    if form is None:
        return algebra.size(algebra.find(axis))
    sizes = [evaluated(algebra, part) for part in form[1]]
    return int(numpy.prod(sizes)) if form[0] == "product" else sum(int(str(s)) for s in sizes)
