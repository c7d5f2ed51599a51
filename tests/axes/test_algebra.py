"""The algebra of axes: unification agrees with a hidden concrete structure, whatever the order of what is learnt."""

import random
from collections.abc import Sequence

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.analysis.owners import owners
from graphprune.axes.algebra import Algebra, Axis, divide
from graphprune.ir.sizes import symbol
from graphprune.ir.types import Size
from tests.support.axis_programs import (
    HIDDEN,
    Label,
    Labels,
    Make,
    Step,
    evaluated,
    partition,
    program,
    run,
    same,
    shuffled,
    structure,
)

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
