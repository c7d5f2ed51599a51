"""Shapes: how views, slices and concatenations take axes apart and join them, and which integers follow a cut."""

import pytest

from graphprune.axes.rules.shape import RULES
from tests.support.one_call import Inferred
from tests.support.rule_samples import Sample, f, i, s


def test_a_view_splits_an_axis_into_factors_and_its_sizes_follow_them() -> None:
    seen = Inferred(RULES, s("view", f(5, 6), [5, 2, 3]))
    rows, heads, size = seen.result()
    assert seen.operands()[0][0] == rows
    assert seen.algebra.factors(seen.operands()[0][1]) == (heads, size)
    assert seen.resized({heads: [1]}) == {"size": [5, 1, 3]}
    assert seen.resized({rows: [0, 4], size: [2, 1]}) == {"size": [2, 2, 2]}


def test_a_view_joins_two_axes_into_their_product() -> None:
    seen = Inferred(RULES, s("reshape", f(4, 2, 3), [4, 6]))
    rows, heads, size = seen.operands()[0]
    assert seen.algebra.factors(seen.result()[1]) == (heads, size)
    assert seen.resized({heads: [0]}) == {"shape": [4, 3]}
    assert rows == seen.result()[0]


def test_a_view_through_the_middle_of_an_axis_locks_both_sides() -> None:
    seen = Inferred(RULES, s("view", f(2, 3), [3, 2]))
    assert set(seen.locks()) == {*seen.operands()[0], *seen.result()}
    assert set(seen.locks().values()) == {"aten.view to [3, 2] cuts through the middle of an axis"}


def test_transpose_and_permute_only_change_the_order() -> None:
    swapped = Inferred(RULES, s("transpose.int", f(2, 3, 4), 0, -1))
    assert swapped.result() == swapped.operands()[0][::-1]
    turned = Inferred(RULES, s("permute", f(2, 3, 4), [-1, 0, -2]))
    a, b, c = turned.operands()[0]
    assert turned.result() == (c, a, b)


def test_expanded_dimensions_are_new_and_their_sizes_follow_what_they_meet() -> None:
    seen = Inferred(RULES, s("expand", f(3, 1), [2, 3, 4]))
    new, kept, wide = seen.result()
    assert kept == seen.operands()[0][0]
    assert wide != seen.operands()[0][1]
    assert seen.resized({new: [1], kept: [0, 2]}) == {"size": [1, 2, 4]}


def test_a_slice_splits_its_axis_and_both_ends_follow_the_parts() -> None:
    seen = Inferred(RULES, s("slice.Tensor", f(6, 3), 0, 1, 4))
    before, kept, after = seen.algebra.parts(seen.operands()[0][0])
    assert [seen.algebra.size(part) for part in (before, kept, after)] == [1, 3, 2]
    assert seen.result()[0] == kept
    assert seen.resized({kept: [0, 2], after: [0]}) == {"start": 1, "end": 3}
    assert seen.locks() == {}


def test_every_second_entry_is_the_outer_factor_of_pairs_whose_inside_is_locked() -> None:
    seen = Inferred(RULES, s("slice.Tensor", f(2, 6), 1, 1, 6, 2))
    pairs, inside = seen.algebra.factors(seen.operands()[0][1])
    assert seen.result()[1] == pairs
    assert seen.locks() == {inside: "one of every 2 is picked from it"}
    assert seen.resized({pairs: [0, 2]}) == {"end": 4}


def test_a_concatenation_joins_along_one_dimension_and_relates_the_others() -> None:
    seen = Inferred(RULES, s("cat", [f(2, 3), f(2, 4)], 1))
    left, right = seen.operands()
    assert left[0] == right[0] == seen.result()[0]
    assert seen.algebra.parts(seen.result()[1]) == (left[1], right[1])


def test_a_split_gives_the_parts_and_its_sizes_follow_them() -> None:
    seen = Inferred(RULES, s("split_with_sizes", f(2, 7), [2, 4, 1], 1))
    rows, whole = seen.operands()[0]
    parts = seen.algebra.parts(whole)
    assert seen.result() == tuple((rows, part) for part in parts)
    assert seen.resized({parts[1]: [3]}) == {"split_sizes": [2, 1, 1]}


def test_a_repeated_dimension_is_a_product_with_the_repetitions_outside() -> None:
    seen = Inferred(RULES, s("repeat", f(1, 3), [2, 4]))
    times, inside = seen.algebra.factors(seen.result()[1])
    assert (inside, seen.algebra.size(times)) == (seen.operands()[0][1], 4)
    assert seen.resized({inside: [0]}) == {"repeats": [2, 4]}
    assert seen.resized({times: [0, 1, 2]}) == {"repeats": [2, 3]}
    inner = Inferred(RULES, s("repeat_interleave.self_int", f(2, 3), 2, 1))
    assert inner.algebra.factors(inner.result()[1])[0] == inner.operands()[0][1]


LOCKING = [
    (s("select.int", f(3, 4), 0, 1), "index 1 is picked from it"),
    (s("unbind.int", f(2, 3), 0), "taken apart index by index"),
    (s("squeeze.dim", f(2, 3), 0), "a squeeze would remove it where one unit is left"),
    (s("slice.Tensor", f(7), 0, 0, 7, 2), "sliced with step 2"),
    (s("repeat_interleave.self_Tensor", f(3), i(1, 2, 1)), "repeated by computed counts"),
    (s("select_scatter", f(3, 4), f(4), 0, 1), "index 1 of it is written over"),
]


@pytest.mark.parametrize(("sample", "reason"), LOCKING, ids=[str(sample) for sample, _ in LOCKING])
def test_single_entries_cannot_be_told_from_an_axis_that_shrinks(sample: Sample, reason: str) -> None:
    seen = Inferred(RULES, sample)
    assert seen.locks()[seen.operands()[0][0]] == reason
    assert seen.resized({}) == {}
