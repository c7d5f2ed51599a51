"""What is chosen from: the axes, what counts the choices, and how many entries must be left, on axes made by hand."""

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.analysis.choices import (
    chosen_atoms,
    count_kept,
    find_chosen,
    free_slots,
    least_kept,
    shares,
    slot_masks,
)
from graphprune.axes.algebra import Algebra
from graphprune.axes.inference import Choice, Inference
from graphprune.axes.rules import indexing, reduction
from graphprune.rewriting.widths import Widths
from tests.support.one_call import Inferred, bare
from tests.support.rule_samples import f, s


def inference(algebra: Algebra, *choices: Choice) -> Inference:
    return bare(algebra, choices=choices)


def choice(axis: int, slots: int | None, picks: bool = True) -> Choice:
    return Choice(None, axis, slots, picks)  # type: ignore[arg-type]


@given(st.lists(st.integers(2, 6), min_size=1, max_size=3), st.data())
def test_enough_is_left_however_the_factors_of_an_axis_are_cut(sizes: list[int], data: st.DataObject) -> None:
    """And not a factor keeps more than it has, nor more than all that is needed."""
    algebra = Algebra()
    factors = [algebra.fresh(size) for size in sizes]
    need = data.draw(st.integers(1, math.prod(sizes)))
    found = dict(shares(algebra, algebra.product(factors), need))
    assert set(found) == set(factors)
    assert math.prod(found.values()) >= need
    assert all(1 <= found[axis] <= min(size, need) for axis, size in zip(factors, sizes, strict=True))


def test_inner_factors_hold_what_is_needed_before_outer_ones() -> None:
    algebra = Algebra()
    groups, experts = algebra.fresh(4), algebra.fresh(3)
    assert dict(shares(algebra, algebra.product((groups, experts)), 5)) == {experts: 3, groups: 2}
    assert dict(shares(algebra, algebra.product((groups, experts)), 2)) == {experts: 2, groups: 1}


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.booleans(), st.randoms())
def test_entries_left_are_those_of_the_mask(sizes: list[int], joined: bool, random: object) -> None:
    algebra, draw = Algebra(), numpy.random.default_rng(random.randint(0, 999))  # type: ignore[attr-defined]
    atoms = [algebra.fresh(size) for size in sizes]
    whole = algebra.concat(atoms) if joined else algebra.product(atoms)
    axis = algebra.product((algebra.fresh(2), whole))
    kept = {atom: draw.random(size) > 0.5 for atom, size in zip(atoms, sizes, strict=True)}
    assert count_kept(algebra, axis, kept) == int(Widths(inference(algebra), kept).mask(axis).sum())
    assert count_kept(algebra, axis, {}) == algebra.size(axis)


def test_only_what_is_picked_by_number_is_chosen_from() -> None:
    algebra = Algebra()
    experts, logits = algebra.fresh(4), algebra.fresh(5)
    found = inference(algebra, choice(experts, None), choice(logits, None, picks=False))
    assert chosen_atoms(found) == {experts}


def test_slots_are_free_unless_they_are_fixed_or_made_of_parts() -> None:
    algebra = Algebra()
    experts, slots = algebra.fresh(8), algebra.fresh(2)
    assert free_slots(algebra, choice(experts, slots), frozenset()) == slots
    assert free_slots(algebra, choice(experts, slots), frozenset({slots})) is None
    assert free_slots(algebra, choice(experts, None), frozenset()) is None
    assert free_slots(algebra, choice(experts, algebra.product((slots, algebra.fresh(2)))), frozenset()) is None


def test_as_many_are_kept_as_are_chosen_where_that_number_may_not_shrink() -> None:
    algebra = Algebra()
    experts, slots = algebra.fresh(8), algebra.fresh(3)
    found = inference(algebra, choice(experts, slots))
    assert least_kept(found, {}) == {experts: 3}
    assert least_kept(found, {slots: (experts,)}) == {}


def test_entries_picked_one_by_one_differ() -> None:
    algebra = Algebra()
    experts = algebra.fresh(8)
    assert least_kept(inference(algebra, choice(experts, None), choice(experts, None)), {}) == {experts: 2}
    assert least_kept(inference(algebra, choice(experts, None, picks=False)), {}) == {experts: 1}
    both = inference(algebra, choice(experts, None), choice(experts, algebra.fresh(4)))
    assert least_kept(both, {}) == {experts: 4}, "the larger of the two"


@pytest.mark.parametrize(("left", "mask"), [(4, None), (2, None), (1, [True, False])])
def test_no_more_are_chosen_than_are_left(left: int, mask: list[bool] | None) -> None:
    seen = Inferred(indexing.RULES, s("topk", f(3, 4), 2))
    experts = seen.operands()[0][1]
    chosen = find_chosen(seen.inference, frozenset())
    (slots,) = chosen.slots
    assert (chosen.atoms, chosen.least) == ({experts}, {})
    assert [r.reason for r in chosen.reductions] == ["the best ones are chosen from it"]
    found = slot_masks(seen.inference, chosen, {experts: numpy.arange(4) < left})
    assert {axis: m.tolist() for axis, m in found.items()} == ({} if mask is None else {slots: mask})


def test_a_choice_among_what_was_chosen_shrinks_with_it() -> None:
    algebra = Algebra()
    experts, first, second = algebra.fresh(8), algebra.fresh(4), algebra.fresh(3)
    found = inference(algebra, choice(experts, first), choice(first, second))
    chosen = find_chosen(found, frozenset())
    masks = slot_masks(found, chosen, {experts: numpy.arange(8) < 2})
    assert [int(mask.sum()) for mask in masks.values()] == [2, 2]


def test_the_best_alone_needs_one() -> None:
    seen = Inferred(reduction.RULES, s("argmax", f(2, 3), 1))
    chosen = find_chosen(seen.inference, frozenset())
    assert (chosen.slots, chosen.least) == ({}, {seen.operands()[0][1]: 1})
