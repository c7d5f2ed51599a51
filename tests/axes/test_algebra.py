"""The algebra of axes: unification agrees with a hidden concrete structure, whatever the order of what is learnt."""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.analysis.owners import owners
from graphprune.axes.algebra import Algebra, Axis, divide
from graphprune.ir.sizes import symbol
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


N, M = symbol("n"), symbol("m")
SEEDS = given(st.integers(0, 10**9))


@SEEDS
@settings(max_examples=150)
def test_what_is_learnt_does_not_depend_on_the_order(seed: int) -> None:
    rng = random.Random(seed)
    steps = program(rng)
    first, second = run(steps), run(shuffled(steps, rng))
    assert structure(*first) == structure(*second)


@SEEDS
@settings(max_examples=100)
def test_unification_is_commutative(seed: int) -> None:
    steps = program(random.Random(seed))
    turned = [same(*step.reads[::-1]) if not step.makes else step for step in steps]
    first, second = run(steps), run(turned)
    assert structure(*first) == structure(*second)
    assert partition(*first) == partition(*second)


@SEEDS
@settings(max_examples=100)
def test_unification_is_idempotent(seed: int) -> None:
    steps = program(random.Random(seed))
    algebra, axes = run(steps)
    before, parts = structure(algebra, axes), partition(algebra, axes)
    assert all(step.run(algebra, axes) for step in steps if not step.makes)
    assert (structure(algebra, axes), partition(algebra, axes)) == (before, parts)


@SEEDS
@settings(max_examples=100)
def test_sizes_stay_what_they_were_declared(seed: int) -> None:
    algebra, axes = run(program(random.Random(seed)))
    for axis in range(len(algebra.sizes)):
        assert evaluated(algebra, axis) == algebra.size(axis) == algebra.size(algebra.find(axis))
    assert all(len(owner) == algebra.size(a) for a in axes.values() for owner in owners(algebra, a, {}).values())


@SEEDS
@settings(max_examples=100)
def test_nothing_is_related_that_is_not(seed: int) -> None:
    """Indices that the algebra takes for the same are the same in the hidden structure."""
    rng = random.Random(seed)
    steps = program(rng)
    algebra, axes = run(steps)
    known: dict[Label, set[Label]] = {}
    hidden = labels_of(steps)
    for name, axis in axes.items():
        if name not in hidden:
            continue
        owned = owners(algebra, axis, {})
        for index, label in enumerate(hidden[name]):
            key = frozenset((str(a), int(owner[index])) for a, owner in owned.items() if owner[index] >= 0)
            known.setdefault(key, set()).add(label)
    assert all(len(labels) == 1 for labels in known.values())


def labels_of(steps: Sequence[Step]) -> dict[str, Labels]:
    """The hidden labels of the axes that were made whole."""
    return {n: HIDDEN[n.rsplit(" ", 1)[0]] for step in steps for n in step.makes if n.rsplit(" ", 1)[0] in HIDDEN}


def test_the_programs_do_learn_something() -> None:
    """The properties above would hold of programs that do nothing: these have splits, factors and unifications."""
    programs = [program(random.Random(seed)) for seed in range(40)]
    assert sum(any(not s.makes for s in p) for p in programs) > 20
    algebras = [run(p)[0] for p in programs]
    forms = [form[0] for algebra in algebras for form in algebra.forms if form]
    assert min(forms.count("product"), forms.count("concat")) > 40


@given(st.integers(2, 6), st.integers(2, 6))
def test_factoring_and_multiplying_are_inverse(outer: int, inner: int) -> None:
    algebra = Algebra()
    axis = algebra.fresh(outer * inner)
    pair = algebra.factor(axis, outer)
    assert pair is not None
    assert [algebra.size(a) for a in pair] == [outer, inner]
    assert algebra.unify(algebra.product(pair), axis)
    assert algebra.factor(axis, outer) == pair
    assert algebra.factors(axis) == pair
    assert algebra.regroup([axis], (outer, inner)) == pair
    whole = algebra.regroup(pair, (outer * inner,))
    assert whole is not None
    assert algebra.factors(whole[0]) == pair


@given(st.integers(1, 6), st.integers(1, 6))
def test_splitting_and_joining_are_inverse(before: int, after: int) -> None:
    algebra = Algebra()
    axis = algebra.fresh(before + after)
    pair = algebra.split(axis, before)
    assert pair is not None
    assert algebra.parts(axis) == pair
    assert algebra.unify(algebra.concat(pair), axis)
    assert algebra.split(axis, before) == pair


def test_splits_and_factors_that_can_not_be_are_refused() -> None:
    algebra = Algebra()
    axis = algebra.fresh(6)
    assert algebra.factor(axis, 4) is None
    assert algebra.split(axis, 0) is None
    assert algebra.split(axis, 6) is None
    assert algebra.form(axis) is None
    pair = algebra.factor(axis, 3)
    assert pair is not None
    assert algebra.split(axis, 3) is None  # in the middle of the second of three rows
    assert algebra.split(axis, 4) is not None


def thirds(algebra: Algebra) -> Axis:
    return algebra.concat([algebra.fresh(3), algebra.fresh(3)])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (lambda a: a.fresh(6), lambda a: a.fresh(5)),
        (lambda a: a.product([a.fresh(2), a.fresh(3)]), lambda a: a.product([a.fresh(3), a.fresh(2)])),
        (lambda a: a.product([a.fresh(2), a.fresh(3)]), lambda a: a.concat([a.fresh(1), a.fresh(5)])),
        (lambda a: a.concat([a.fresh(2), a.product([a.fresh(2), a.fresh(2)])]), thirds),
    ],
    ids=["sizes", "factors", "a cut through a row", "parts"],
)
def test_structures_that_do_not_fit_are_refused(left: Make, right: Make) -> None:
    algebra = Algebra()
    one, other = left(algebra), right(algebra)
    assert not algebra.unify(one, other)
    assert algebra.find(one) != algebra.find(other)
    assert not algebra.unify(other, one)


def test_rotary_halves_are_one_axis() -> None:
    """`cat(x2, -x1)` is added to `x`: both halves are one axis, shared with the table of frequencies."""
    algebra = Algebra()
    size, table = algebra.fresh(8), algebra.fresh(4)
    halves = algebra.split(size, 4)
    assert halves is not None
    assert algebra.unify(algebra.concat(halves[::-1]), size)
    assert algebra.unify(algebra.concat([table, table]), size)
    (half,) = algebra.atoms(size)
    assert half == algebra.find(table)
    assert owners(algebra, size, {})[half].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_packed_heads_with_partial_rotary() -> None:
    """GPT-NeoX: rows are heads of [q | k | v], and the first part of q and k is two rotary halves."""
    algebra = Algebra()
    rows = algebra.fresh(2 * 24)
    heads, packed = algebra.regroup([rows], (2, 24)) or (0, 0)
    query, rest = algebra.split(packed, 8) or (0, 0)
    key, value = algebra.split(rest, 8) or (0, 0)
    assert algebra.unify(query, key)
    rotary, _ = algebra.split(query, 4) or (0, 0)
    one, other = algebra.split(rotary, 2) or (0, 0)
    assert algebra.unify(one, other)
    atoms = algebra.atoms(rows)
    assert [algebra.size(a) for a in atoms] == [2, 2, 4, 8]
    owned = owners(algebra, rows, {})
    assert owned[atoms[0]].tolist() == [0] * 24 + [1] * 24
    rotated = [0, 1, 0, 1, -1, -1, -1, -1]
    assert owned[atoms[1]].tolist() == [*rotated, *rotated, *[-1] * 8] * 2
    assert owned[algebra.find(value)].tolist() == ([-1] * 16 + list(range(8))) * 2
    assert algebra.find(heads) == atoms[0]


def test_a_reshape_that_cuts_through_an_axis_is_refused() -> None:
    algebra = Algebra()
    first, second = algebra.fresh(2), algebra.fresh(3)
    assert algebra.regroup([first, second], (3, 2)) is None
    assert algebra.regroup([algebra.fresh(6)], (4, 3)) is None
    assert algebra.regroup([first, second], (2, 2)) is None
    assert algebra.form(first) is algebra.form(second) is None


def test_symbolic_sizes_in_a_reshape() -> None:
    batch, sequence = symbol("batch"), symbol("sequence")
    algebra = Algebra()
    rows, length, width = algebra.fresh(batch), algebra.fresh(sequence), algebra.fresh(12)
    tokens, columns = algebra.regroup([rows, length, width], (batch * sequence, 12)) or (0, 0)
    assert algebra.size(tokens) == batch * sequence
    assert algebra.factors(tokens) == (rows, length)
    assert columns == width
    back = algebra.regroup([tokens, columns], (batch, sequence, 4, 3)) or ()
    assert back[:2] == (rows, length)
    assert algebra.factors(width) == back[2:]
    assert algebra.regroup([rows, length], (sequence, batch)) is None
    assert algebra.regroup([rows, length, width], (batch, None)) is not None


@pytest.mark.parametrize(
    ("size", "by", "expected"),
    [(12, 4, 3), (12, 5, None), (3 * N, 3, N), (N, 2, None), (N * M, M, N), (N + M, M, None)],
)
def test_sizes_divide_exactly_or_not_at_all(size: Size, by: Size, expected: Size | None) -> None:
    assert divide(size, by) == expected


def test_a_size_that_only_happens_to_fit_is_not_the_same() -> None:
    """Symbols are compared as expressions: `past + sequence` is no `sequence`, even where past is 0."""
    algebra = Algebra()
    sequence, both = symbol("sequence"), symbol("past") + symbol("sequence")
    assert not algebra.unify(algebra.fresh(sequence), algebra.fresh(both))
    assert algebra.unify(algebra.fresh(both), algebra.fresh(sympy.expand(both)))
